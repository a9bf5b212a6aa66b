import { VarveError } from '../../core/errors.ts';
import { NAMESPACE_DEFAULTS, namespaceOptions } from '../engine/namespace-options.ts';
import type { NamespaceOptions } from '../engine/storage-engine.ts';
import { formatDuration, parseDuration } from './time-text.ts';

/**
 * The options of a namespace as people and files have them: times as durations (`48h`), everything but the name
 * optional. `{"retention":"30d","blockSize":"2h","coldWritesEnabled":true}`
 */
export type NamespaceSettings = Readonly<Record<string, string | number | boolean>>;

type Field = Exclude<keyof NamespaceOptions, 'name'>;

const FIELDS = Object.keys(NAMESPACE_DEFAULTS) as Field[];
const BY_NAME = new Map(FIELDS.map((field) => [field.replace(/Ns$/, ''), field]));

/** Names of all settings. */
export const NAMESPACE_SETTINGS: readonly string[] = [...BY_NAME.keys()];

/** Complete. */
export function namespaceSettings(options: NamespaceOptions): NamespaceSettings {
  return Object.fromEntries(
    [...BY_NAME].map(([name, field]) => {
      const value = options[field];
      return [name, typeof value === 'bigint' ? formatDuration(value) : value];
    }),
  );
}

/**
 * Options from settings; what is left out is as in `base`, or the default.
 * @throws NAMESPACE_INVALID naming the setting and the rule
 */
export function namespaceFromSettings(
  name: string,
  settings: unknown,
  base: Partial<NamespaceOptions> = {},
): NamespaceOptions {
  if (typeof settings !== 'object' || settings === null || Array.isArray(settings)) {
    throw invalid(name, 'its settings are not a JSON object');
  }
  const given: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(settings)) {
    const field = BY_NAME.get(key);
    if (field === undefined) {
      throw invalid(
        name,
        `there is no setting ${JSON.stringify(key)}; there are ${NAMESPACE_SETTINGS.join(', ')}`,
      );
    }
    given[field] = valueOf(name, key, { value, pattern: NAMESPACE_DEFAULTS[field] });
  }
  const { indexBlockSizeNs, ...rest } = base;
  // An index block that was one data block stays so.
  const follows = given['blockSizeNs'] !== undefined && indexBlockSizeNs === base.blockSizeNs;
  const kept = follows || indexBlockSizeNs === undefined ? {} : { indexBlockSizeNs };
  return namespaceOptions({ ...rest, ...kept, ...given, name });
}

function valueOf(
  namespace: string,
  key: string,
  { value, pattern }: { readonly value: unknown; readonly pattern: bigint | string | number | boolean },
): unknown {
  if (typeof pattern === 'bigint') {
    const ns = typeof value === 'string' ? parseDuration(value) : undefined;
    if (ns === undefined) throw invalid(namespace, `${key} has to be a duration such as "48h"`);
    return ns;
  }
  if (typeof value !== typeof pattern) throw invalid(namespace, `${key} has to be a ${typeof pattern}`);
  return value;
}

function invalid(name: string, why: string): VarveError {
  return new VarveError('NAMESPACE_INVALID', `namespace ${JSON.stringify(name)}: ${why}`, {
    hint: 'Nothing was changed.',
  });
}
