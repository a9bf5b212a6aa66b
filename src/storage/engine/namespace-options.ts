import { VarveError } from '../../core/errors.ts';
import type { CachePolicy, NamespaceOptions } from './storage-engine.ts';

const SECOND_NS = 1_000_000_000n;
const MINUTE_NS = 60n * SECOND_NS;
const HOUR_NS = 60n * MINUTE_NS;
const MIB = 1024 * 1024;

const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const POLICIES: readonly CachePolicy[] = ['none', 'all', 'recentlyRead', 'lru'];
const MAX_SERIES = 2 ** 31 - 1;
/** A thousand years: what a sum of two may be still fits into 64 bits. */
const MAX_RETENTION_NS = 31_556_952_000n * SECOND_NS;

/**
 * Defaults are those of M3: two days, blocks of two hours, ten minutes late, two minutes early; all that data
 * goes through enabled, cold writes not.
 */
export const NAMESPACE_DEFAULTS: Omit<NamespaceOptions, 'name'> = {
  retentionNs: 48n * HOUR_NS,
  blockSizeNs: 2n * HOUR_NS,
  bufferPastNs: 10n * MINUTE_NS,
  bufferFutureNs: 2n * MINUTE_NS,
  indexEnabled: true,
  indexBlockSizeNs: 2n * HOUR_NS,
  bootstrapEnabled: true,
  flushEnabled: true,
  snapshotEnabled: true,
  writesToCommitLog: true,
  cleanupEnabled: true,
  coldWritesEnabled: false,
  cachePolicy: 'lru',
  cacheBytes: 64 * MIB,
  maxSeries: 5_000_000,
};

/** Options of which only the name has to be given. An index block is a data block unless given. */
export type NamespaceRequest = Partial<NamespaceOptions> & Pick<NamespaceOptions, 'name'>;

/**
 * Complete and checked: retention of at least a block, buffers smaller than one, an index block a multiple of it
 * and within retention.
 * @throws NAMESPACE_INVALID naming the field and the rule
 */
export function namespaceOptions(request: NamespaceRequest): NamespaceOptions {
  const blockSizeNs = request.blockSizeNs ?? NAMESPACE_DEFAULTS.blockSizeNs;
  const options: NamespaceOptions = {
    ...NAMESPACE_DEFAULTS,
    blockSizeNs,
    indexBlockSizeNs: blockSizeNs,
    ...withoutUndefined(request),
  };
  const rule = brokenRule(options);
  if (rule) {
    throw new VarveError('NAMESPACE_INVALID', `namespace ${JSON.stringify(options.name)}: ${rule}`, {
      hint: 'Nothing was changed. docs/storage.md lists the options and their defaults.',
    });
  }
  return options;
}

function brokenRule(options: NamespaceOptions): string | undefined {
  const { name, retentionNs, blockSizeNs, bufferPastNs, bufferFutureNs, indexBlockSizeNs } = options;
  if (!NAME.test(name)) {
    return 'the name has 1 to 128 of the characters A-Z, a-z, 0-9, "_", "." and "-", the first one no "." or "-"';
  }
  if (blockSizeNs < SECOND_NS) return `blockSize is at least one second, not ${blockSizeNs} ns`;
  if (retentionNs < blockSizeNs)
    return `retention (${retentionNs} ns) is at least one block (${blockSizeNs} ns)`;
  if (retentionNs > MAX_RETENTION_NS) return 'retention is at most a thousand years';
  if (bufferPastNs < 0n || bufferPastNs >= blockSizeNs)
    return 'bufferPast is 0 or more and less than blockSize';
  if (bufferFutureNs < 0n || bufferFutureNs >= blockSizeNs) {
    return 'bufferFuture is 0 or more and less than blockSize';
  }
  if (indexBlockSizeNs <= 0n || indexBlockSizeNs % blockSizeNs !== 0n) {
    return `indexBlockSize (${indexBlockSizeNs} ns) is a multiple of blockSize (${blockSizeNs} ns)`;
  }
  if (indexBlockSizeNs > retentionNs) return 'indexBlockSize is at most the retention';
  if (!POLICIES.includes(options.cachePolicy)) return `cachePolicy is one of ${POLICIES.join(', ')}`;
  if (!Number.isSafeInteger(options.cacheBytes) || options.cacheBytes < 0) return 'cacheBytes is 0 or more';
  const { maxSeries } = options;
  if (!Number.isInteger(maxSeries) || maxSeries < 1 || maxSeries > MAX_SERIES) {
    return `maxSeries is from 1 to ${MAX_SERIES}`;
  }
  return undefined;
}

/**
 * Why a namespace cannot become what is wanted while it has data; undefined when it can. Where blocks begin and
 * end is fixed with the first of them; everything else may change at any time.
 */
export function refusedChange(current: NamespaceOptions, wanted: NamespaceOptions): string | undefined {
  const fixed = ['blockSizeNs', 'indexBlockSizeNs', 'indexEnabled', 'writesToCommitLog'] as const;
  const changed = fixed.filter((field) => current[field] !== wanted[field]);
  if (changed.length === 0) return undefined;
  return `${changed.join(', ')} cannot change: the blocks that are there were made with the old value`;
}

export function sameNamespace(a: NamespaceOptions, b: NamespaceOptions): boolean {
  return (Object.keys(a) as (keyof NamespaceOptions)[]).every((field) => a[field] === b[field]);
}

function withoutUndefined(request: NamespaceRequest): NamespaceRequest {
  return Object.fromEntries(
    Object.entries(request).filter(([, value]) => value !== undefined),
  ) as NamespaceRequest;
}
