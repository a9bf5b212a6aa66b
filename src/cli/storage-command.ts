import { once } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { systemClock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import type { Options } from '../config/options.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { stopSignals } from './stop-signals.ts';

type StorageOptions = Options<'storage'>;

/** `varve storage ACTION`: what there is to do with a storage engine and its files. */
export async function storage(context: CliContext, flags: Flags, given: readonly string[]): Promise<number> {
  const options = settings(context, 'storage', flags);
  const [action] = given;
  switch (action) {
    case 'serve':
      return serve(options, flags);
    case 'inspect':
      return inspect(context, options);
    case 'verify':
      return verify(context, options);
    case 'export':
      return exportSamples(context, options);
    default:
      throw new VarveError('INVALID_ARGUMENT', `there is no varve storage ${action ?? ''}`.trimEnd(), {
        hint: 'There are serve, inspect, verify and export.',
      });
  }
}

/** Young objects may not gather up to 32 MB, as V8 would have it: what an engine keeps is not among them. */
const YOUNG_STAY_FEW = '--semi-space-growth-factor=1';

/** Runs an engine without PostgreSQL until it is told to stop. */
async function serve(options: StorageOptions, flags: Flags): Promise<number> {
  setFlagsFromString(YOUNG_STAY_FEW);
  const { isSystemFolder, serveOptions } = await import('../node/storage-settings.ts');
  const { runStorageNode } = await import('../node/storage-daemon.ts');
  const { logger } = await import('./logger.ts');
  if (flags['dir'] === undefined) {
    throw new VarveError('INVALID_ARGUMENT', 'varve storage serve needs --dir, the folder of its engine');
  }
  if (isSystemFolder(options.dir)) {
    throw new VarveError('INVALID_ARGUMENT', `${options.dir} is the folder of a whole system`, {
      hint: 'varve up runs it, with a storage engine in each data node; name another folder.',
    });
  }
  const node = serveOptions(options);
  using signals = stopSignals();
  const log = logger({ level: options.logLevel, node: node.name });
  await runStorageNode(
    {
      log,
      clock: systemClock,
      report: () => {},
      onListening: (url) => log.info({ url, folder: node.folder }, 'the storage engine listens'),
    },
    node,
    signals.stop,
  );
  return ExitCode.ok;
}

async function inspect(context: CliContext, { dir, node, json, namespace }: StorageOptions): Promise<number> {
  const { findStorage, inspectionJson, inspectionLines, inspectStorage } =
    await import('../node/storage-files.ts');
  const documents: object[] = [];
  let isDamaged = false;
  for (const files of await findStorage(dir, node)) {
    const filesets = [];
    for await (const one of inspectStorage(files.folder)) {
      if (namespace === undefined || one.namespace === namespace) filesets.push(one);
    }
    isDamaged ||= filesets.some(({ damage }) => damage !== undefined);
    if (json)
      documents.push({ node: files.node ?? null, folder: files.folder, filesets: inspectionJson(filesets) });
    else {
      const title = files.node === undefined ? files.folder : `${files.node}: ${files.folder}`;
      context.stdout.write(`${[title, ...inspectionLines(filesets), ''].join('\n')}\n`);
    }
  }
  if (json) context.stdout.write(`${JSON.stringify(documents, null, 2)}\n`);
  return isDamaged ? ExitCode.no : ExitCode.ok;
}

async function verify(context: CliContext, { dir, node, json }: StorageOptions): Promise<number> {
  const { findingText, findStorage, verifyStorage } = await import('../node/storage-files.ts');
  using signals = stopSignals();
  let count = 0;
  for (const files of await findStorage(dir, node)) {
    for await (const finding of verifyStorage(files.folder, signals.stop)) {
      count += 1;
      context.stdout.write(
        `${json ? JSON.stringify({ node: files.node ?? null, ...finding }) : findingText(finding)}\n`,
      );
    }
  }
  if (!json)
    context.stdout.write(count === 0 ? 'Everything is as it was written.\n' : `${count} findings.\n`);
  return count === 0 ? ExitCode.ok : ExitCode.no;
}

async function exportSamples(context: CliContext, options: StorageOptions): Promise<number> {
  const { storageClient } = await import('../node/storage-access.ts');
  const client = await storageClient(options);
  context.stdout.on('error', () => process.exit(ExitCode.ok));
  const { namespace = 'default', match = '{__name__!=""}', start, end } = options;
  for await (const piece of client.export({ namespace, match, start, end })) {
    if (!context.stdout.write(piece)) await once(context.stdout, 'drain');
  }
  return ExitCode.ok;
}
