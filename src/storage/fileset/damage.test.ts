import { crc32 } from 'node:zlib';
import { beforeEach, expect, test, vi } from 'vitest';
import { VarveError } from '../../core/errors.ts';
import { seedCount, SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { encodeCheckedFile, type Magic } from './checked-file.ts';
import { decodeCheckpoint, decodeDigestFile } from './digest-file.ts';
import { FileDamageError, FormatFault, type FileDamage } from './fileset-damage.ts';
import { FILE_KINDS, filesetPath } from './fileset-id.ts';
import { FilesetReader } from './fileset-reader.ts';
import { idOf, latin1, randomSeries, readAll, ROOT, write, type Series } from './fileset.suite.ts';
import { decodeDirectory, decodePage, encodeDirectory, PageBuilder } from './index-pages.ts';
import { decodeInfo, type FilesetInfo } from './info-file.ts';
import { recoverFilesets } from './recover-filesets.ts';
import { decodeManifest, encodeManifest } from './snapshot-manifest.ts';
import { verifyFileset } from './verify-fileset.ts';

// Many seeds on busy machines.
vi.setConfig({ testTimeout: 60_000 });

const SERIES: Series = [
  ['metric{host="a"}', 'first payload'],
  ['metric{host="b"}', ''],
  ['metric{host="c"}', 'third'],
];

let disk: SimulatedDisk;
let info: FilesetInfo;
beforeEach(async () => {
  disk = new SimulatedDisk();
  await disk.makeFolder(ROOT);
  info = await write(disk, idOf(), SERIES);
});

/** What is read must be what was written, or nothing, with damage told. */
async function checkRead(what: string): Promise<void> {
  const damages: FileDamage[] = [];
  const found = await readAll(disk, info, { onDamage: (damage) => damages.push(damage) });
  const names = found.map(([name]) => name);
  expect(
    found.filter(([name, payload]) => !SERIES.some(([n, p]) => n === name && p === payload)),
    what,
  ).toEqual([]);
  expect(new Set(names).size, what).toBe(names.length);
  if (found.length < SERIES.length) expect(damages, what).not.toEqual([]);
  await using reader = new FilesetReader({ fs: disk }, ROOT, info);
  for (const [name, payload] of SERIES) {
    await reader.find(latin1(name)).then(
      (bytes) => expect(bytes?.toString(), what).toBe(payload),
      (error: unknown) => expect(error, what).toMatchObject({ code: 'FILESET_DAMAGED' }),
    );
  }
}

async function checkDamage(kind: (typeof FILE_KINDS)[number], content: Buffer, what: string): Promise<void> {
  const path = filesetPath(ROOT, idOf(), kind);
  const intact = disk.files().get(path) ?? Buffer.alloc(0);
  disk.plant(path, content);
  const damages = await verifyFileset({ fs: disk }, ROOT, idOf()).catch((error: unknown) => error);
  expect(damages, what).toEqual(expect.arrayContaining([expect.objectContaining({ file: path })]));
  await checkRead(what);
  const { filesets, damaged } = await recoverFilesets({ fs: disk }, ROOT, {
    shards: [idOf()],
    repair: false,
  });
  if (kind === 'info') {
    expect(filesets, what).toEqual([]);
    expect(damaged, what).toMatchObject([{ damage: { file: path } }]);
  } else {
    expect(filesets, what).toEqual([info]);
  }
  disk.plant(path, intact);
}

test.each(FILE_KINDS)(
  'every flipped bit of the %s file is found, and nothing false is read',
  async (kind) => {
    const intact = disk.files().get(filesetPath(ROOT, idOf(), kind)) ?? Buffer.alloc(0);
    expect(intact.length).toBeGreaterThan(19);
    for (let offset = 0; offset < intact.length; offset++) {
      const content = Buffer.from(intact);
      content[offset] = (content[offset] ?? 0) ^ (1 << (offset % 8));
      await checkDamage(kind, content, `${kind}, byte ${offset}`);
    }
  },
);

test.each(FILE_KINDS)('the %s file cut at any length, or longer, is found', async (kind) => {
  const intact = disk.files().get(filesetPath(ROOT, idOf(), kind)) ?? Buffer.alloc(0);
  for (let length = 0; length < intact.length; length++) {
    await checkDamage(kind, intact.subarray(0, length), `${kind} of ${length} bytes`);
  }
  await checkDamage(kind, Buffer.concat([intact, Buffer.alloc(1)]), `${kind}, one byte more`);
});

test('a missing file is found', async () => {
  for (const kind of FILE_KINDS) {
    const path = filesetPath(ROOT, idOf(), kind);
    const intact = disk.files().get(path) ?? Buffer.alloc(0);
    await disk.remove(path);
    expect(await verifyFileset({ fs: disk }, ROOT, idOf())).toContainEqual({
      file: path,
      offset: 0,
      reason: 'it is missing',
    });
    disk.plant(path, intact);
  }
  expect(await verifyFileset({ fs: disk }, ROOT, idOf())).toEqual([]);
});

test('a file of another fileset, intact in itself, is found', async () => {
  const other = await write(disk, idOf({ volume: 1 }), [['x', 'other content']]);
  expect(other.volume).toBe(1);
  for (const kind of FILE_KINDS) {
    const foreign = disk.files().get(filesetPath(ROOT, other, kind)) ?? Buffer.alloc(0);
    const path = filesetPath(ROOT, idOf(), kind);
    const intact = disk.files().get(path) ?? Buffer.alloc(0);
    disk.plant(path, foreign);
    expect(await verifyFileset({ fs: disk }, ROOT, idOf()), kind).not.toEqual([]);
    disk.plant(path, intact);
  }
});

test('damage of one page costs its series only', async () => {
  const many = Array.from({ length: 3000 }, (_, i): [string, string] => [
    `series ${String(i * 7919).padStart(9, '0')}`,
    `payload ${i}`,
  ]);
  const whole = await write(disk, idOf({ volume: 1 }), many);
  const path = filesetPath(ROOT, whole, 'index');
  const bytes = disk.files().get(path) ?? Buffer.alloc(0);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
  disk.plant(path, bytes);
  const damages: FileDamage[] = [];
  const found = await readAll(disk, whole, { onDamage: (damage) => damages.push(damage) });
  expect(damages).toHaveLength(1);
  expect(damages[0]?.file).toBe(path);
  expect(found.length).toBeGreaterThan(1000);
  expect(found.length).toBeLessThan(3000);
  await expect(readAll(disk, whole)).rejects.toBeInstanceOf(FileDamageError);
});

test('what the disk cannot read is damage with its place', async () => {
  const path = filesetPath(ROOT, idOf(), 'data');
  disk.fault = (operation) => (operation.kind === 'read' && operation.path === path ? 'EIO' : undefined);
  await expect(readAll(disk, info)).rejects.toMatchObject({
    code: 'FILESET_DAMAGED',
    message: `${path} is damaged at offset 0: the disk cannot read it`,
  });
  disk.fault = undefined;
});

test('a reader that met trouble tries again', async () => {
  await using reader = new FilesetReader({ fs: disk }, ROOT, info);
  disk.fault = ({ kind }) => (kind === 'open' ? 'EMFILE' : undefined);
  await expect(reader.find(latin1('metric{host="a"}'))).rejects.toThrow('EMFILE');
  disk.fault = undefined;
  expect(String(await reader.find(latin1('metric{host="a"}')))).toBe('first payload');
});

test('a version of the format that is not known is refused, not put aside', async () => {
  const path = filesetPath(ROOT, idOf(), 'info');
  const bytes = disk.files().get(path) ?? Buffer.alloc(0);
  bytes.writeUInt16LE(2, 8);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, -4)), bytes.length - 4);
  disk.plant(path, bytes);
  await expect(recoverFilesets({ fs: disk }, ROOT, { shards: [idOf()], repair: true })).rejects.toMatchObject(
    { code: 'STORAGE_FORMAT_UNKNOWN' },
  );
  expect(disk.files().has(path)).toBe(true);
});

test('whatever the bytes, a decoder ends with a result or with damage', () => {
  const decoders: Record<string, (bytes: Buffer) => unknown> = {
    info: (bytes) => decodeInfo('f', bytes, idOf()),
    digest: (bytes) => decodeDigestFile('f', bytes),
    checkpoint: (bytes) => decodeCheckpoint('f', bytes),
    manifest: (bytes) => decodeManifest('f', bytes, 1),
    page: decodePage,
    directory: decodeDirectory,
  };
  const magics: readonly Magic[] = ['VRVINFO_', 'VRVDIGST', 'VRVCHECK', 'VRVMANIF'];
  const builder = new PageBuilder();
  for (const [id, payload] of randomSeries(new SeededRandom(1), 30)) {
    builder.add({ id: latin1(id), offset: 16, payload: latin1(payload), checksum: 7 });
  }
  const page = Buffer.from(builder.finish().bytes);
  const directory = encodeDirectory([
    { offset: 16, sizeBytes: 9, firstId: latin1('a') },
    { offset: 99, sizeBytes: 9, firstId: latin1('b'.repeat(200)) },
  ]);
  const manifest = encodeManifest({
    index: 1,
    kind: 'cycle',
    position: { segment: 1, sequence: 1 },
    createdAtNs: 1n,
    entries: [{ ...idOf(), digest: Buffer.alloc(32) }],
    annotation: Buffer.alloc(3),
  });
  for (let seed = 0; seed < seedCount(500); seed++) {
    const random = new SeededRandom(seed);
    // With checksums that match, as if somebody had made the bytes on purpose.
    const forged = [
      ...magics.map((magic) => encodeCheckedFile(magic, random.below(3), random.bytes(random.below(200)))),
      ...[page, directory].map((intact) => resealed(mutated(intact, random))),
      encodeCheckedFile('VRVMANIF', 0, mutated(manifest.subarray(16, -4), random)),
      random.bytes(random.below(100)),
    ];
    for (const bytes of forged) {
      for (const [name, decode] of Object.entries(decoders)) {
        try {
          decode(bytes);
        } catch (error) {
          const expected = error instanceof FormatFault || error instanceof VarveError;
          expect(expected, `${name}, seed ${seed}: ${String(error)}`).toBe(true);
        }
      }
    }
  }
});

function mutated(bytes: Buffer, random: SeededRandom): Buffer {
  const copy = Buffer.from(bytes);
  for (let count = 1 + random.below(4); count > 0; count--)
    copy[random.below(copy.length)] = random.below(256);
  return copy;
}

/** A page or a list of pages with a right length and checksum. */
function resealed(bytes: Buffer): Buffer {
  bytes.writeUInt32LE(bytes.length, 4);
  bytes.writeUInt32LE(crc32(bytes.subarray(4)), 0);
  return bytes;
}
