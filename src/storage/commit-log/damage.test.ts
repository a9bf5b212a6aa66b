import { beforeAll, describe, expect, test, vi } from 'vitest';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { FOLDER, read, reopen, testDeps } from './commit-log.suite.ts';
import { logDamageError } from './log-damage.ts';
import { replayCommitLog } from './replay.ts';
import {
  decodeSegmentHeader,
  encodeSegmentHeader,
  FORMAT_VERSION,
  RecordCodec,
  recordBytes,
  SEGMENT_HEADER_BYTES,
} from './segment-format.ts';

// Many seeds on busy machines.
vi.setConfig({ testTimeout: 60_000 });

const PATH = '/log/segment-000000000001.log';
const TEXTS = ['first', 'second record', 'third', 'the fourth one', 'fifth'];

async function written(texts: readonly string[], close: boolean): Promise<Buffer> {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk), { segmentBytes: 512 });
  for (const text of texts) await log.append(Buffer.from(text));
  const open = disk.processCrash(1);
  await log[Symbol.asyncDispose]();
  const content = (close ? disk : open).files().get(PATH);
  if (!content) throw new Error('no segment');
  return content;
}

async function readFile(content: Uint8Array): ReturnType<typeof read> {
  const disk = new SimulatedDisk();
  await disk.makeFolder(FOLDER);
  disk.plant(PATH, content);
  return await read(disk);
}

describe('a segment', () => {
  let sealed: Buffer;
  let open: Buffer;
  let ends: number[];
  beforeAll(async () => {
    sealed = await written(TEXTS, true);
    open = await written(TEXTS, false);
    ends = [];
    let end = SEGMENT_HEADER_BYTES;
    for (const text of TEXTS) ends.push((end += recordBytes(text.length)));
  });

  /** Which record a byte of the file belongs to; -1 for the header, 5 for what is behind the last. */
  const recordAt = (offset: number): number =>
    offset < SEGMENT_HEADER_BYTES ? -1 : ends.filter((end) => end <= offset).length;

  test('every flipped bit of a sealed segment costs at most the record it is in, and is told with its place', async () => {
    for (let offset = 0; offset < sealed.length; offset++) {
      for (const bit of [0, 3, 7]) {
        const content = Buffer.from(sealed);
        content[offset] = (content[offset] ?? 0) ^ (1 << bit);
        const { texts, report } = await readFile(content);
        const hit = recordAt(offset);
        expect(texts, `offset ${offset}`).toEqual(TEXTS.filter((_, index) => index !== hit));
        // Without its seal, the segment is one that a crash has left; its records are whole.
        const kind = hit < TEXTS.length ? 'damaged' : 'torn';
        const [damage, ...more] = report.damages;
        expect(more).toEqual([]);
        expect(damage, `offset ${offset}`).toMatchObject({ kind, file: PATH });
        if (!damage) continue;
        expect(damage.offset).toBeLessThanOrEqual(offset);
        expect(damage.offset + damage.sizeBytes).toBeGreaterThan(offset);
        expect(logDamageError(damage).message).toContain(`${PATH} is ${kind} at offset ${damage.offset}`);
      }
    }
  });

  test('every flipped byte of an open segment costs at most the record it is in', async () => {
    for (let offset = 0; offset < open.length; offset++) {
      const content = Buffer.from(open);
      content[offset] = ~(content[offset] ?? 0);
      const { texts, report } = await readFile(content);
      const hit = recordAt(offset);
      expect(texts, `offset ${offset}`).toEqual(TEXTS.filter((_, index) => index !== hit));
      expect(report.damages).toHaveLength(1);
      // Of the last record nothing testifies that it was durable.
      const kind = hit < TEXTS.length - 1 ? 'damaged' : 'torn';
      expect(report.damages[0]?.kind, `offset ${offset}`).toBe(kind);
    }
  });

  test('truncated at any length it gives the whole records before', async () => {
    for (const content of [sealed, open]) {
      for (let length = 0; length <= content.length; length++) {
        const { texts, report } = await readFile(content.subarray(0, length));
        expect(texts).toEqual(TEXTS.filter((_, index) => (ends[index] ?? 0) <= length));
        const clean = length === 0 || length >= SEGMENT_HEADER_BYTES;
        if (!clean) expect(report.damages).toHaveLength(1);
        expect(report.damages.every(({ kind }) => kind === 'torn')).toBe(true);
      }
    }
  });

  test('every zeroed, overwritten or foreign run of bytes costs the records that it touches', async () => {
    for (let seed = 0; seed < 500; seed++) {
      const random = new SeededRandom(seed);
      const content = Buffer.from(sealed);
      const start = random.below((ends.at(-1) ?? 0) - 1);
      const end = Math.min(ends.at(-1) ?? 0, start + 1 + random.below(120));
      const fill = random.pick(['zeros', 'noise', 'copy']);
      if (fill === 'zeros') content.fill(0, start, end);
      if (fill === 'noise') random.bytes(end - start).copy(content, start);
      if (fill === 'copy') sealed.copy(content, start, random.below(200), 200 + random.below(100));
      const { texts, report } = await readFile(content);
      const intact = TEXTS.filter((_, index) => {
        const from = index === 0 ? SEGMENT_HEADER_BYTES : (ends[index - 1] ?? 0);
        return sealed.subarray(from, ends[index]).equals(content.subarray(from, ends[index]));
      });
      const headers = sealed.subarray(0, 96).equals(content.subarray(0, 96)) || start >= 64 || end <= 64;
      if (headers && fill !== 'copy') expect(texts, `seed ${seed}`).toEqual(intact);
      expect(texts.filter((text) => !TEXTS.includes(text))).toEqual([]);
      expect(new Set(texts).size).toBe(texts.length);
      if (texts.length < TEXTS.length) expect(report.damages.length).toBeGreaterThan(0);
    }
  });

  test('under another number, or with another segment’s records in it, gives nothing false', async () => {
    const disk = new SimulatedDisk();
    await disk.makeFolder(FOLDER);
    disk.plant('/log/segment-000000000002.log', sealed);
    const { texts, report } = await read(disk);
    expect(texts).toEqual([]);
    expect(report.damages).toMatchObject([{ kind: 'damaged', offset: 0 }]);
  });

  test('of a newer version is refused, not skipped', async () => {
    const header = decodeSegmentHeader(sealed);
    if (!header) throw new Error('no header');
    const content = Buffer.from(sealed);
    encodeSegmentHeader({ ...header, version: FORMAT_VERSION + 1 }).copy(content);
    await expect(readFile(content)).rejects.toMatchObject({ code: 'STORAGE_FORMAT_UNKNOWN' });
  });

  test('a payload that holds a copy of the log is only a payload, also when its own record is damaged', async () => {
    const disk = new SimulatedDisk();
    const { log } = await reopen(testDeps(disk, 5), { segmentBytes: 4096 });
    const codec = new RecordCodec(0x01010101, 1);
    const forged = Buffer.concat([sealed, Buffer.alloc(32)]);
    codec.encode(
      { kind: 'batch', payloadBytes: 0, payloadChecksum: 0, sequence: 9, syncedBytes: 4000 },
      forged,
      sealed.length,
    );
    await log.append(forged);
    await log.append(Buffer.from('real'));
    await log[Symbol.asyncDispose]();
    const content = disk.files().get(PATH) ?? Buffer.alloc(0);
    content[SEGMENT_HEADER_BYTES + 8] = 0xee;
    const { texts } = await readFile(content);
    expect(texts).toEqual(['real']);
  });

  test('pages that cannot be read cost what is in them', async () => {
    const disk = new SimulatedDisk();
    const { log } = await reopen(testDeps(disk), { segmentBytes: 64 * 1024 });
    const texts = Array.from({ length: 60 }, (_, i) => `${i} ${'x'.repeat(500)}`);
    for (const text of texts) await log.append(Buffer.from(text));
    await log[Symbol.asyncDispose]();
    const real = disk.open.bind(disk);
    disk.open = async (path, mode) => {
      const file = await real(path, mode);
      const readBytes = file.read.bind(file);
      file.read = async (position, lengthBytes) => {
        if (path === PATH && position < 12_288 && position + lengthBytes > 8192) {
          throw Object.assign(new Error('EIO'), { code: 'EIO' });
        }
        return await readBytes(position, lengthBytes);
      };
      return file;
    };
    const found = await read(disk);
    expect(found.texts.length).toBeGreaterThan(48);
    expect(found.texts.at(-1)).toBe(texts.at(-1));
    expect(found.report.damages).toMatchObject([{ kind: 'damaged' }]);
  });
});

test('a small window reads the same as a large one', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk), { segmentBytes: 8192 });
  for (let i = 0; i < 100; i++) await log.append(Buffer.alloc(i * 7, i));
  await log[Symbol.asyncDispose]();
  disk.plant(PATH, (disk.files().get(PATH) ?? Buffer.alloc(0)).fill(0xaa, 3000, 4000));
  const whole = await read(disk);
  for (const windowBytes of [1, 33, 100, 1000]) {
    const texts: string[] = [];
    const report = await replayCommitLog({ fs: disk }, { folder: FOLDER, windowBytes }, ({ payload }) => {
      texts.push(payload.toString('latin1'));
    });
    expect(texts).toEqual(whole.texts);
    expect(report).toEqual(whole.report);
  }
});

test('whatever the bytes, a reader ends and invents nothing', async () => {
  for (let seed = 0; seed < 300; seed++) {
    const random = new SeededRandom(seed);
    const content = random.bytes(random.below(2000));
    if (random.chance(0.7)) {
      const salt = (random.below(2 ** 32) | 1) >>> 0;
      encodeSegmentHeader({ version: 1, salt, segment: 1, clock: 1n, firstSequence: 1 }).copy(content);
      // As many false beginnings of records as there can be.
      for (let at = 64; at + 4 <= content.length; at += 4) {
        if (random.chance(0.5)) content.writeUInt32LE(salt, at);
      }
    }
    const { texts, report } = await readFile(content);
    expect(texts).toEqual([]);
    if (content.length > 0) expect(report.damages.length).toBeLessThanOrEqual(1);
  }
});

test('headers come back as they were written, to the last bit of large numbers', () => {
  const header = {
    version: 1,
    salt: 0xdeadbeef,
    segment: 2 ** 40 + 5,
    clock: -(2n ** 62n),
    firstSequence: Number.MAX_SAFE_INTEGER,
  };
  expect(decodeSegmentHeader(encodeSegmentHeader(header))).toEqual(header);
  const codec = new RecordCodec(header.salt, header.segment);
  const target = Buffer.alloc(40);
  const record = {
    kind: 'seal' as const,
    payloadBytes: 2 ** 31,
    payloadChecksum: 2 ** 32 - 1,
    sequence: Number.MAX_SAFE_INTEGER,
    syncedBytes: 2 ** 31,
  };
  codec.encode(record, target, 8);
  expect(codec.decode(target, 8)).toEqual(record);
  expect(new RecordCodec(header.salt, 6).decode(target, 8)).toBeUndefined();
  expect(codec.decode(target.subarray(0, 39), 8)).toBeUndefined();
});
