import { systemClock } from '../core/clock.ts';
import { statusLines } from '../node/status-lines.ts';
import { SystemAccess } from '../node/system-access.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { stopSignals } from './stop-signals.ts';

const EVERY_MS = 1000;

export async function status(context: CliContext, flags: Flags): Promise<number> {
  const options = settings(context, 'status', flags);
  using signals = stopSignals();
  context.stdout.on('error', () => signals.request());
  for (;;) {
    const document = await (await SystemAccess.find(options.dir)).status();
    // With --watch each JSON document is a line, so that a reader can tell where one ends.
    const json = JSON.stringify(document, null, options.watch ? undefined : 2);
    const clear = options.watch && context.stdout.isTTY ? '\u001B[H\u001B[2J' : '';
    context.stdout.write(options.json ? `${json}\n` : `${clear}${statusLines(document).join('\n')}\n`);
    if (!options.watch) {
      return document.nodes.every(({ state }) => state === 'ready') ? ExitCode.ok : ExitCode.no;
    }
    await systemClock.sleep(EVERY_MS, signals.stop).catch(() => {});
    if (signals.stop.aborted) return ExitCode.ok;
  }
}
