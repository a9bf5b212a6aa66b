import { VarveError } from '../core/errors.ts';
import type { Options } from '../config/options.ts';
import { storageClient } from '../node/storage-access.ts';
import type { ListedNamespace } from '../node/storage-client.ts';
import { textTable } from '../node/text-table.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';

type NamespaceOptions = Options<'namespace'>;

/** `varve namespace ACTION NAME`: the namespaces of a system, by way of one of its storage nodes. */
export async function namespace(
  context: CliContext,
  flags: Flags,
  given: readonly string[],
): Promise<number> {
  const options = settings(context, 'namespace', flags);
  const [action, name] = given;
  const client = await storageClient(options);
  const print = (data: unknown, lines: readonly string[]): number => {
    const text = options.json ? JSON.stringify(data, null, 2) : lines.join('\n');
    context.stdout.write(`${text}\n`);
    return ExitCode.ok;
  };
  const all = action === 'list' || name !== undefined ? await client.namespaces() : [];
  const isThere = all.some((one) => one.name === name);
  switch (action) {
    case 'list':
      return print(all, namespaceLines(all));
    case 'create': {
      if (isThere) throw new VarveError('INVALID_ARGUMENT', `there is a namespace "${name}" already`);
      const made = await client.putNamespace(needed(name), namespaceSettings(options));
      return print(made, [`namespace ${made.name} is there`]);
    }
    case 'change': {
      const wanted = needed(name);
      if (!isThere) throw new VarveError('NAMESPACE_UNKNOWN', `there is no namespace "${wanted}"`);
      const changed = await client.putNamespace(wanted, namespaceSettings(options));
      return print(changed, [`namespace ${changed.name} is changed`]);
    }
    case 'delete':
      await client.deleteNamespace(needed(name));
      return print({ name }, [`namespace ${name} is deleted, with its samples`]);
    default:
      throw new VarveError('INVALID_ARGUMENT', `there is no varve namespace ${action ?? ''}`.trimEnd(), {
        hint: 'There are list, create, change and delete.',
      });
  }
}

function needed(name: string | undefined): string {
  if (name !== undefined) return name;
  throw new VarveError('INVALID_ARGUMENT', 'the name of the namespace is missing');
}

/** Those that were given, as the node takes them. */
function namespaceSettings(options: NamespaceOptions): object {
  const { retention, blockSize, indexBlockSize, bufferPast, bufferFuture, cachePolicy, maxSeries } = options;
  const coldWritesEnabled = options.coldWrites === undefined ? undefined : options.coldWrites === 'on';
  // What is undefined is not part of the text.
  return {
    retention,
    blockSize,
    indexBlockSize,
    bufferPast,
    bufferFuture,
    cachePolicy,
    maxSeries,
    coldWritesEnabled,
  };
}

function namespaceLines(all: readonly ListedNamespace[]): string[] {
  const names = [
    'name',
    'retention',
    'blockSize',
    'bufferPast',
    'bufferFuture',
    'coldWritesEnabled',
    'cachePolicy',
    'maxSeries',
  ];
  return textTable(
    names,
    all.map((one) => names.map((name) => String(one[name] ?? ''))),
  );
}
