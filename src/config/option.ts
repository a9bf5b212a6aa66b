import type { Command } from './commands.ts';
import type { Kind } from './kinds.ts';

export interface OptionSpec<T, C extends readonly Command[] = readonly Command[]> {
  readonly kind: Kind<T>;
  readonly commands: C;
  readonly help: string;
  readonly default?: NoInfer<T>;
  /** How a default that is not a plain value is described. */
  readonly defaultText?: string;
  /** One letter. */
  readonly short?: string;
  /** Its value is never shown. */
  readonly secret?: boolean;
  /** It can be given on the command line only: it makes no sense to keep it. */
  readonly flagOnly?: boolean;
}

/** Keeps the exact type of an entry, with `undefined` where there is no default. */
export function option<const T, const C extends readonly Command[]>(
  kind: Kind<T>,
  spec: Omit<OptionSpec<T, C>, 'kind'> & { readonly default: NoInfer<T> },
): OptionSpec<T, C> & { readonly default: T };
export function option<const T, const C extends readonly Command[]>(
  kind: Kind<T>,
  spec: Omit<OptionSpec<T, C>, 'kind'>,
): OptionSpec<T, C>;
export function option<const T, const C extends readonly Command[]>(
  kind: Kind<T>,
  spec: Omit<OptionSpec<T, C>, 'kind'>,
): OptionSpec<T, C> {
  return { kind, ...spec };
}
