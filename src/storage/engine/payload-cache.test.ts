import { expect, test } from 'vitest';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { PayloadCache } from './payload-cache.ts';

const ID = Buffer.from('series');

test('a fileset that was dropped and came back with its volume gives its own payloads, never those of before', () => {
  const cache = new PayloadCache({ policy: 'lru', budgetBytes: 10_000, keepNs: 0n });
  const [before, after] = [filesetInfo(), filesetInfo()];
  cache.put(before, ID, Buffer.from('what was there before'), 1n);
  expect(cache.get(after, ID, 2n)).toBeUndefined();
  cache.put(after, ID, Buffer.from('now'), 3n);
  const bytes = cache.bytes;
  expect(cache.get(after, ID, 4n)?.toString()).toBe('now');

  // Who has read the old one all the while.
  expect(cache.get(before, ID, 5n)).toBeUndefined();
  cache.put(before, ID, Buffer.from('what was there before'), 6n);
  expect(cache.get(after, ID, 7n)).toBeUndefined();
  cache.put(after, ID, Buffer.from('now'), 8n);
  expect(cache.bytes).toBe(bytes);
});

function filesetInfo(): FilesetInfo {
  return {
    namespace: 'default',
    shard: 3,
    blockStartNs: 7200n,
    blockSizeNs: 7200n,
    volume: 0,
    kind: 'flush',
    entryCount: 1,
    payloadBytes: 1,
    indexBytes: 1,
    directory: { offset: 0, sizeBytes: 0 },
    createdAtNs: 0n,
    digest: Buffer.alloc(32),
    annotation: Buffer.alloc(0),
  };
}
