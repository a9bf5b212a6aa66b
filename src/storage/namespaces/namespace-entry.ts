import { messageOf, VarveError } from '../../core/errors.ts';
import type { NamespaceOptions } from '../engine/storage-engine.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { namespaceFromSettings, namespaceSettings } from '../protocol/namespace-json.ts';

/**
 * What is known of a namespace. One that was deleted is remembered: that it is missing somewhere never says that it
 * was deleted, or a coordinator that lost its data would take everybody's along.
 */
export interface NamespaceEntry {
  readonly name: string;
  /** Another one for each creation: who missed the deletion in between must not keep the old data. */
  readonly incarnation: string;
  /** Undefined when it was deleted. */
  readonly options: NamespaceOptions | undefined;
}

/** Of the namespace that is there without anybody having made it. */
export const IMPLICIT = 'implicit';

/** What the namespace is called that is there from the beginning. */
export const DEFAULT_NAME = 'default';

export type NamespaceEntries = ReadonlyMap<string, NamespaceEntry>;

export interface MergedEntries {
  readonly entries: NamespaceEntries;
  /** Names that have to go with their data before they come again. */
  readonly recreated: readonly string[];
}

/** What is to be, from what was known here and what is stored for all. Pure. */
export function mergeEntries(known: NamespaceEntries, stored: readonly NamespaceEntry[]): MergedEntries {
  const entries = new Map(known);
  const recreated: string[] = [];
  for (const entry of stored) {
    const before = known.get(entry.name);
    if (before?.options && entry.options && before.incarnation !== entry.incarnation) {
      if (before.incarnation !== IMPLICIT) recreated.push(entry.name);
    }
    entries.set(entry.name, entry);
  }
  if (!entries.has(DEFAULT_NAME)) {
    const options = namespaceOptions({ name: DEFAULT_NAME });
    entries.set(DEFAULT_NAME, { name: DEFAULT_NAME, incarnation: IMPLICIT, options });
  }
  return { entries, recreated };
}

/** As it is written; the name is kept beside it. */
export function entryText({ incarnation, options }: NamespaceEntry): string {
  const settings = options && namespaceSettings(options);
  return JSON.stringify({ version: 1, incarnation, ...(settings ? { settings } : { deleted: true }) });
}

/** @throws NAMESPACE_INVALID when it is not what `entryText` writes */
export function parseEntry(name: string, text: string): NamespaceEntry {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw unreadable(name, messageOf(error));
  }
  const { version, incarnation, settings, deleted } = (parsed ?? {}) as Record<string, unknown>;
  if (version !== 1 || typeof incarnation !== 'string' || incarnation === '') {
    throw unreadable(name, 'it is of no version that is known here');
  }
  if (deleted === true) return { name, incarnation, options: undefined };
  return { name, incarnation, options: namespaceFromSettings(name, settings) };
}

function unreadable(name: string, why: string): VarveError {
  return new VarveError(
    'NAMESPACE_INVALID',
    `what is kept of namespace ${JSON.stringify(name)} cannot be read: ${why}`,
  );
}
