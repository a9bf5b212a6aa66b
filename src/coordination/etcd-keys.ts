import { checkPrefix } from './key.ts';

/**
 * Where things are in etcd. The keys of the contract are as they are given; what the adapter needs besides is
 * below a folder whose name is no key:
 *
 *     KEY                            value, or a lock: the owner's name, attached to the session's lease
 *     ~varve/guard/KEY               of a lock: keeps it from others for the lock delay
 *     ~varve/session/ID/lock         its name, attached to the lease of its locks
 *     ~varve/session/ID/guard        the same, attached to the lease of its guards
 *     ~varve/service/NAME/ID/record  what was registered
 *     ~varve/service/NAME/ID/status  of its check; gone when nobody reports
 */
const ROOT = '~varve/';

/** `[key, end)` in the order of bytes. */
export interface KeyRange {
  readonly key: string;
  readonly end?: string;
}

/** Everything that may be a key; `~` comes behind them. */
export function rangeOfPrefix(prefix: string): KeyRange {
  checkPrefix(prefix);
  if (prefix === '') return { key: '\0', end: '~' };
  return rangeBelow(prefix);
}

export function guardKey(key: string): string {
  return `${ROOT}guard/${key}`;
}

export function sessionKeys(id: string): { readonly lock: string; readonly guard: string } {
  const folder = `${ROOT}session/${id}/`;
  return { lock: `${folder}lock`, guard: `${folder}guard` };
}

/** Ends with a slash. */
export function servicesFolder(name: string): string {
  return `${ROOT}service/${encodeURIComponent(name)}/`;
}

export function serviceKeys(name: string, id: string): { readonly record: string; readonly status: string } {
  const folder = `${servicesFolder(name)}${encodeURIComponent(id)}/`;
  return { record: `${folder}record`, status: `${folder}status` };
}

/** All keys that start with `prefix`, which is not empty and ends below the last byte. */
export function rangeBelow(prefix: string): KeyRange {
  const last = prefix.length - 1;
  return { key: prefix, end: prefix.slice(0, last) + String.fromCharCode(prefix.charCodeAt(last) + 1) };
}

/** In JSON etcd's bytes are base64. */
export function base64(text: string | Uint8Array): string {
  return Buffer.from(text).toString('base64');
}

export function rangeJson({ key, end }: KeyRange): { readonly key: string; readonly range_end?: string } {
  return { key: base64(key), ...(end === undefined ? {} : { range_end: base64(end) }) };
}
