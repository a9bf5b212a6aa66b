import { VarveError } from '../core/errors.ts';

const MAX_CHARS = 512;

/**
 * The keys that every coordinator takes as they are: newer versions of Consul refuse others, and URLs give dots
 * and double slashes a meaning of their own.
 * @throws INVALID_ARGUMENT
 */
export function checkKey(key: string): void {
  checkPrefix(key);
  if (key === '' || key.endsWith('/')) refuse('key', key);
}

/** As `checkKey`; empty, or with a slash at its end, it may be a prefix. */
export function checkPrefix(prefix: string): void {
  const segments = prefix.split('/');
  const inner = segments.slice(0, -1);
  const bad = inner.some((segment) => segment === '') || segments.some((s) => s === '.' || s === '..');
  if (bad || prefix.length > MAX_CHARS || !/^[A-Za-z0-9,._/-]*$/.test(prefix)) refuse('prefix', prefix);
}

function refuse(what: string, text: string): never {
  throw new VarveError(
    'INVALID_ARGUMENT',
    `${JSON.stringify(text.slice(0, 100))} is not a coordinator ${what}`,
    {
      hint: `Use letters, digits and , - _ . in segments separated by single slashes, at most ${MAX_CHARS} characters.`,
    },
  );
}
