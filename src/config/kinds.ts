/**
 * The kinds of values that an option may have. A kind reads text (flags, environment) and JSON (file) alike,
 * and says in one phrase what it accepts.
 */
export interface Kind<T> {
  /** What stands for the value in `--help`. */
  readonly placeholder: string;
  /** Completes "must be …". */
  readonly rule: string;
  /** `undefined` when the value breaks the rule. */
  read(value: unknown): T | undefined;
  /** How it would be written, where that is not plain. */
  show?(value: T): string;
}

export const text: Kind<string> = {
  placeholder: 'text',
  rule: 'a text that is not empty',
  read: (value) => (typeof value === 'string' && value.trim() !== '' ? value : undefined),
};

export const path: Kind<string> = {
  ...text,
  placeholder: 'path',
  rule: 'a path',
  read: (value) => (text.read(value)?.includes('\0') ? undefined : text.read(value)),
};

export const flag: Kind<boolean> = {
  placeholder: '',
  rule: 'true or false',
  read: (value) => {
    if (typeof value === 'boolean') return value;
    if (value === 'true' || value === '1') return true;
    return value === 'false' || value === '0' ? false : undefined;
  },
};

/** A whole number from `min` to `max`. */
export function count(min: number, max: number): Kind<number> {
  return {
    placeholder: 'n',
    rule: `a whole number from ${min} to ${max}`,
    read: (value) => {
      const digits = typeof value === 'number' ? String(value) : value;
      if (typeof digits !== 'string' || !/^\d{1,15}$/.test(digits)) return undefined;
      const number = Number(digits);
      return number >= min && number <= max ? number : undefined;
    },
  };
}

export const port: Kind<number> = { ...count(1, 65_535), placeholder: 'port' };

const DURATION_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** Milliseconds, written with a unit: `250ms`, `5s`, `2m`, `1h`. */
export const duration: Kind<number> = {
  placeholder: 'time',
  rule: 'a time with its unit, such as 250ms, 5s, 2m or 1h',
  read: (value) => {
    const [, digits, unit] = (typeof value === 'string' && /^(\d{1,9})(ms|s|m|h)$/.exec(value)) || [];
    const unitMs = DURATION_MS[unit ?? ''];
    return digits === undefined || unitMs === undefined ? undefined : Number(digits) * unitMs;
  },
  show: (ms) => {
    const unit = ['h', 'm', 's'].find((name) => ms % (DURATION_MS[name] ?? 1) === 0) ?? 'ms';
    return `${ms / (DURATION_MS[unit] ?? 1)}${unit}`;
  },
};

/** One of a closed set. */
export function choice<const V extends string>(...values: readonly V[]): Kind<V> {
  return {
    placeholder: values.join('|'),
    rule: `one of ${values.join(', ')}`,
    read: (value) => values.find((known) => known === value),
  };
}

/** A name that may stand in a file name, a certificate and a line of output. */
export const nodeName: Kind<string> = {
  placeholder: 'name',
  rule: 'a name of 1 to 40 lower-case letters, digits and hyphens that starts with a letter',
  read: (value) => (typeof value === 'string' && /^[a-z][a-z0-9-]{0,39}$/.test(value) ? value : undefined),
};

/** One, or several separated by commas. */
export const httpUrls: Kind<string> = {
  placeholder: 'url',
  rule: 'a URL that starts with http:// or https://, or several, separated by commas',
  read: (value) => (typeof value === 'string' && value.split(',').every(isHttpUrl) ? value : undefined),
};

function isHttpUrl(text: string): boolean {
  return /^https?:\/\/[^\s/]/.test(text) && URL.canParse(text);
}

/** Where PostgreSQL comes from. */
export const postgresSource: Kind<string> = {
  placeholder: 'source',
  rule: 'embedded, system, auto, an absolute path of a folder with the programs, or a URL postgres://…',
  read: (value) => {
    if (typeof value !== 'string') return undefined;
    if (['embedded', 'system', 'auto'].includes(value) || value.startsWith('/')) return value;
    return /^postgres(ql)?:\/\/./.test(value) && URL.canParse(value) ? value : undefined;
  },
};
