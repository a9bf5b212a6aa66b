import { once } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { systemClock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { stopSignals } from './stop-signals.ts';

/** Young objects may not gather up to 32 MB, as V8 would have it: what an engine keeps is not among them. */
const YOUNG_STAY_FEW = '--semi-space-growth-factor=1';

/** `varve storage serve`: runs an engine without PostgreSQL until it is told to stop. */
export async function serve(context: CliContext, flags: Flags): Promise<number> {
  const options = settings(context, 'storage serve', flags);
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

/** `varve storage inspect`: 3 when a fileset cannot be used. */
export async function inspect(context: CliContext, flags: Flags): Promise<number> {
  const { dir, node, json, namespace } = settings(context, 'storage inspect', flags);
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

/** `varve storage verify`: 3 when anything is not as it was written. */
export async function verify(context: CliContext, flags: Flags): Promise<number> {
  const { dir, node, json } = settings(context, 'storage verify', flags);
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

/** `varve storage export`: to standard output, as fast as that takes it. */
export async function exportSamples(context: CliContext, flags: Flags): Promise<number> {
  const options = settings(context, 'storage export', flags);
  const { storageClient } = await import('../node/storage-access.ts');
  const client = await storageClient(options);
  context.stdout.on('error', () => process.exit(ExitCode.ok));
  const { namespace = 'default', match = '{__name__!=""}', start, end } = options;
  for await (const piece of client.export({ namespace, match, start, end })) {
    if (!context.stdout.write(piece)) await once(context.stdout, 'drain');
  }
  return ExitCode.ok;
}
