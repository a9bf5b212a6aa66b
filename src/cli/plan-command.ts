import { existsSync } from 'node:fs';
import { systemClock } from '../core/clock.ts';
import { nodeOptions } from '../node/node-options.ts';
import { planLines, planNode } from '../node/plan.ts';
import { nodeConfigFiles } from '../node/system-access.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { stopSignals } from './stop-signals.ts';

/** Of one node with `--config`, else of all nodes of the system in `--dir`. */
export async function plan(context: CliContext, flags: Flags): Promise<number> {
  const { config, ...others } = flags;
  const { dir, json } = settings(context, 'plan', others);
  using signals = stopSignals();
  const files = typeof config === 'string' ? [config] : await nodeConfigFiles(dir);
  const plans = [];
  for (const file of files.filter(existsSync)) {
    const options = nodeOptions(settings(context, 'node', { config: file }));
    plans.push(await planNode(systemClock, options, signals.stop));
  }
  const lines = plans.length > 0 ? planLines(plans) : [`${dir} holds no system: varve up would make one.`];
  context.stdout.write(json ? `${JSON.stringify({ nodes: plans }, null, 2)}\n` : `${lines.join('\n')}\n`);
  return ExitCode.ok;
}
