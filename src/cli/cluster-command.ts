import { userInfo } from 'node:os';
import { createInterface } from 'node:readline/promises';
import { systemClock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import type { Options } from '../config/options.ts';
import { GroupClient } from '../node/group-client.ts';
import type { ActionStatus, GroupAction } from '../node/group-control.ts';
import {
  groupBackupLines,
  groupConfigLines,
  groupLines,
  groupPlanLines,
  groupRequestLines,
} from '../node/group-lines.ts';
import { SystemAccess } from '../node/system-access.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { stopSignals } from './stop-signals.ts';

type ClusterOptions = Options<'cluster'>;

interface Call {
  readonly context: CliContext;
  readonly options: ClusterOptions;
  readonly group: GroupClient;
  /** What stands behind the action. */
  readonly rest: readonly string[];
  readonly stop: AbortSignal;
}

const WATCH_MS = 1000;
/** After which a request that nobody works on wants a word. */
const PATIENCE_MS = 3000;
const TELL_AGAIN_MS = 10_000;

const ACTIONS: Readonly<Record<string, (call: Call) => Promise<number>>> = {
  status: showStatus,
  plan: async ({ context, options, group }) => {
    const steps = await group.plan();
    print(context, options.json ? { steps } : groupPlanLines(steps));
    return ExitCode.ok;
  },
  switchover: async (call) => await act(call, { kind: 'switchover', node: call.rest[0] }),
  pause: async ({ context, group }) => {
    await group.setPaused(true);
    print(context, ['paused: nobody takes over from a write master that fails, until varve cluster resume']);
    return ExitCode.ok;
  },
  resume: async ({ context, group }) => {
    await group.setPaused(false);
    print(context, ['resumed']);
    return ExitCode.ok;
  },
  leave: async (call) => {
    const node = named(call, 'leave', 0);
    return await actIfSure(call, `Member ${node} leaves the group.`, { kind: 'leave', node });
  },
  reinit: async (call) => {
    const node = named(call, 'reinit', 0);
    const what = `What member ${node} holds in replicated databases is dropped and copied anew from the write master.`;
    return await actIfSure(call, what, { kind: 'reinit', node });
  },
  replace: async (call) => {
    const node = named(call, 'replace', 0);
    const by = named(call, 'replace', 1);
    return await actIfSure(call, `Member ${by} takes the place of ${node}, which leaves.`, {
      kind: 'replace',
      node,
      by,
    });
  },
  requests: async ({ context, options, group }) => {
    const requests = await group.requests();
    print(context, options.json ? { requests } : groupRequestLines(requests));
    return ExitCode.ok;
  },
  cancel: async (call) => {
    const { context, options, group, stop } = call;
    const request = await group.cancel(named(call, 'cancel', 0), { clock: systemClock, signal: stop });
    print(context, options.json ? request : [`${request.id}: ${request.detail ?? 'given up'}`]);
    return ExitCode.ok;
  },
  config: configure,
  backup: async (call) => {
    if (call.rest[0] !== 'list') return await act(call, { kind: 'backup', database: call.rest[0] });
    const backups = await call.group.backups();
    print(call.context, call.options.json ? { backups } : groupBackupLines(backups));
    return ExitCode.ok;
  },
  restore: async (call) => {
    const database = named(call, 'restore', 0);
    const from = named(call, 'restore', 1);
    const into = call.rest[2];
    const what = `Database ${into ?? database} gets the content of ${from}. It has to be empty, or not there yet.`;
    // A path is one on the member that is asked.
    const group = from.includes('/') ? call.group : await call.group.holderOf(database, from);
    return await actIfSure({ ...call, group }, what, { kind: 'restore', database, from, into });
  },
};

/** `varve cluster ACTION …`: asks the members over HTTP. */
export async function cluster(context: CliContext, flags: Flags, given: readonly string[]): Promise<number> {
  const options = settings(context, 'cluster', flags);
  const [action = '', ...rest] = given;
  const run = ACTIONS[action];
  if (!run) throw usage(`"${action}" is no action: ${Object.keys(ACTIONS).join(', ')}`);
  const urls = options.member?.split(',') ?? (await SystemAccess.find(options.dir)).accessUrls();
  using signals = stopSignals();
  const group = new GroupClient(urls, userInfo().username);
  return await run({ context, options, group, rest, stop: signals.stop });
}

async function showStatus({ context, options, group, stop }: Call): Promise<number> {
  for (;;) {
    const status = await group.status();
    const clear = options.watch && context.stdout.isTTY ? '\u001B[H\u001B[2J' : '';
    context.stdout.write(clear);
    if (options.json)
      context.stdout.write(`${JSON.stringify(status, null, options.watch ? undefined : 2)}\n`);
    else print(context, groupLines(status));
    if (!options.watch) return status.master === null ? ExitCode.no : ExitCode.ok;
    await systemClock.sleep(WATCH_MS, stop).catch(() => {});
    if (stop.aborted) return ExitCode.ok;
  }
}

async function configure({ context, options, group, rest }: Call): Promise<number> {
  const [name, value] = rest;
  if (name === undefined) {
    const config = await group.config();
    print(context, options.json ? config : groupConfigLines(config));
    return ExitCode.ok;
  }
  const config = await group.setConfig(name, value ?? null);
  print(context, options.json ? config : groupConfigLines(config));
  return ExitCode.ok;
}

async function actIfSure(call: Call, what: string, action: GroupAction): Promise<number> {
  const { context, options } = call;
  if (!options.yes) {
    if (!context.stdin.isTTY) throw usage(`${what} Add --yes to do it.`);
    const terminal = createInterface({ input: context.stdin, output: context.stderr });
    const answer = await terminal.question(`${what} Type yes to do it: `);
    terminal.close();
    if (answer.trim() !== 'yes') return ExitCode.no;
  }
  return await act(call, action);
}

async function act({ context, options, group, stop }: Call, action: GroupAction): Promise<number> {
  let told = '';
  let toldMs = 0;
  const tell = (line: string): void => {
    // For how long it has waited is of interest now and then.
    const what = line.replace(/ \(\d+ s of \d+\)$/, '');
    const nowMs = systemClock.monotonicMs();
    const again = what !== told || (line !== what && nowMs - toldMs > TELL_AGAIN_MS);
    if (line === '' || options.json || !again) return;
    told = what;
    toldMs = nowMs;
    context.stderr.write(`${line}\n`);
  };
  const askedMs = systemClock.monotonicMs();
  const onProgress = ({ state, detail, id }: ActionStatus): void => {
    if (state === 'running') tell(detail ?? '');
    else if (state === 'asked' && systemClock.monotonicMs() - askedMs > PATIENCE_MS) {
      const whose = action.kind === 'reinit' ? `the daemon of ${action.node}` : 'the daemon of a member';
      tell(`${id} waits for ${whose} to take it up; varve status shows which daemons run`);
    }
  };
  try {
    const request = await group.act(action, { clock: systemClock, signal: stop, onProgress });
    print(context, options.json ? request : [`${action.kind}: done`]);
    return ExitCode.ok;
  } catch (error) {
    if (!stop.aborted) throw error;
    context.stderr.write(`${action.kind} goes on without being waited for; varve cluster status shows it\n`);
    return ExitCode.no;
  }
}

function named({ rest }: Call, action: string, index: number): string {
  const name = rest[index];
  if (name === undefined) throw usage(`${action} needs ${index === 0 ? 'a name' : 'another name'} behind it`);
  return name;
}

function print(context: CliContext, what: object): void {
  const text = Array.isArray(what) ? what.join('\n') : JSON.stringify(what, null, 2);
  context.stdout.write(`${text}\n`);
}

function usage(message: string): VarveError {
  return new VarveError('INVALID_ARGUMENT', message, {
    hint: 'varve cluster --help lists actions and flags.',
  });
}
