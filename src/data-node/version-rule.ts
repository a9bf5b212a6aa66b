import { VarveError } from '../core/errors.ts';

/**
 * `document`: the data node may be older, never newer: same major, minor at most the access node's.
 * `reversed`: TimescaleDB 2.8 to 2.13: same major with minor at least the access node's, or a newer major.
 * Patch level and suffixes (`-dev`, `-beta3`) never matter.
 */
export type VersionPolicy = 'document' | 'reversed';

interface Version {
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
}

/** @throws INVALID_VERSION naming `whose` when the text does not start with `n.n.n` */
export function parseVersion(text: string, whose: string): Version {
  const match = /^(\d+)\.(\d+)\.(\d+)/.exec(text);
  if (!match) {
    throw new VarveError('INVALID_VERSION', `invalid ${whose} version "${text}"`, {
      hint: 'A version starts with three numbers, as in 1.3.1 or 2.14.0-dev.',
    });
  }
  return { major: Number(match[1]), minor: Number(match[2]), patch: Number(match[3]) };
}

/** Whether an extension of version `dataNode` can serve an access node that has version `accessNode`. */
export function isCompatible(
  dataNode: string,
  accessNode: string,
  policy: VersionPolicy = 'document',
): boolean {
  const node = parseVersion(dataNode, 'data node');
  const access = parseVersion(accessNode, 'access node');
  switch (policy) {
    case 'document':
      return node.major === access.major && node.minor <= access.minor;
    case 'reversed':
      return node.major > access.major || (node.major === access.major && node.minor >= access.minor);
  }
}

/**
 * The version to create where there is none yet: the access node's own when it is on offer, else the newest
 * compatible one, preferring releases to suffixed builds; undefined when none fits. Versions on offer that
 * cannot be read are passed over.
 */
export function chooseVersion(
  onOffer: readonly string[],
  accessNode: string,
  policy: VersionPolicy = 'document',
): string | undefined {
  if (onOffer.includes(accessNode)) return accessNode;
  return onOffer
    .filter((version) => /^\d+\.\d+\.\d+/.test(version) && isCompatible(version, accessNode, policy))
    .sort((a, b) => compareVersions(b, a))[0];
}

function compareVersions(a: string, b: string): number {
  const left = parseVersion(a, 'offered');
  const right = parseVersion(b, 'offered');
  return (
    left.major - right.major ||
    left.minor - right.minor ||
    left.patch - right.patch ||
    Number(a.includes('-')) * -1 - Number(b.includes('-')) * -1
  );
}
