import { crc32 } from 'node:zlib';
import { expect, test } from 'vitest';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { FormatFault } from './fileset-damage.ts';
import { randomSeries } from './fileset.suite.ts';
import { decodePage, openPage, PageBuilder } from './index-pages.ts';

const bytesOf = (text: string): Buffer => Buffer.from(text, 'latin1');

test('a page gives back what was put into it, and the checksum of all payloads', () => {
  for (let seed = 0; seed < 20; seed++) {
    const builder = new PageBuilder();
    const payloads: Buffer[] = [];
    let offset = 16;
    const entries = randomSeries(new SeededRandom(seed), 40).map(([name, content]) => {
      const [id, payload] = [bytesOf(name), bytesOf(content)];
      const entry = { id, offset, sizeBytes: payload.length, checksum: crc32(payload) };
      builder.add({ ...entry, payload });
      payloads.push(payload);
      offset += payload.length;
      return entry;
    });
    const { bytes } = builder.finish();
    expect(decodePage(bytes), `seed ${seed}`).toEqual(entries);
    expect(openPage(bytes).payloadsChecksum).toBe(crc32(Buffer.concat(payloads)));
  }
});

test('ids that have much in common take few bytes', () => {
  const builder = new PageBuilder();
  const name = (i: number): string =>
    `cluster=west device=dev-${i} instance=host-${(i * 7919) % 1000}:9100 job=node team=infra-${i % 7}`;
  const ids = Array.from({ length: 250 }, (_, i) => bytesOf(name(1000 + i)));
  for (const id of ids) builder.add({ id, offset: 0, payload: Buffer.of(1), checksum: 7 });
  expect(builder.finish().bytes.length / ids.length).toBeLessThan(15);
});

test('a page of the first format version, whose entries are not packed, is read', () => {
  const entries = Buffer.concat([
    Buffer.of(0, 2, ...bytesOf('ab'), 5, 1, 0, 0, 0),
    Buffer.of(1, 1, ...bytesOf('c'), 6, 2, 0, 0, 0),
  ]);
  const page = Buffer.concat([Buffer.alloc(24), entries]);
  page.writeUInt32LE(page.length, 4);
  page.writeUInt32LE(2, 8);
  page.writeUInt32LE(16, 16);
  page.writeUInt32LE(crc32(page.subarray(4)), 0);
  expect(decodePage(page)).toEqual([
    { id: bytesOf('ab'), offset: 16, sizeBytes: 5, checksum: 1 },
    { id: bytesOf('ac'), offset: 21, sizeBytes: 6, checksum: 2 },
  ]);
});

test('a page that claims to be larger than it is, or than any is, is refused', () => {
  const builder = new PageBuilder();
  builder.add({ id: bytesOf('a'), offset: 16, payload: Buffer.of(1), checksum: 7 });
  const { bytes } = builder.finish();
  for (const claimed of [bytes.readUInt32LE(12) + 1, bytes.readUInt32LE(12) - 1, 1 << 30]) {
    const forged = Buffer.from(bytes);
    forged.writeUInt32LE(claimed, 12);
    forged.writeUInt32LE(crc32(forged.subarray(4)), 0);
    expect(() => decodePage(forged)).toThrow(FormatFault);
  }
});
