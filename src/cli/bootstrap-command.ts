import { userInfo } from 'node:os';
import { VarveError } from '../core/errors.ts';
import type { Options } from '../config/options.ts';
import type { BootstrapRequestBody } from '../node/bootstrap-request.ts';
import { storageClients } from '../node/storage-access.ts';
import type { StorageClient } from '../node/storage-client.ts';
import type { InterventionAnswer } from '../node/storage-operations.ts';
import { isSure } from './confirm.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';

interface Planned {
  readonly client: StorageClient;
  readonly plan: InterventionAnswer;
}

/** `varve bootstrap ACTION …`: on each storage node that it concerns. */
export async function bootstrap(
  context: CliContext,
  flags: Flags,
  given: readonly string[],
): Promise<number> {
  const options = settings(context, 'bootstrap', flags);
  const request = requested(given, options);
  const clients = await storageClients(options);
  const planned: Planned[] = [];
  const refusals: VarveError[] = [];
  for (const client of clients) {
    try {
      planned.push({ client, plan: await client.planIntervention(request) });
    } catch (error) {
      if (!(error instanceof VarveError) || !PASSED_OVER.includes(error.code)) throw error;
      refusals.push(error);
    }
  }
  // Most nodes have nothing to do with it; one that does not answer may have.
  const silent = refusals.filter(({ code }) => code === 'STORAGE_NOT_READY');
  for (const { message } of silent) context.stderr.write(`${message}\n`);
  if (planned.length === 0) throw refusals.find((one) => !silent.includes(one)) ?? refusals[0];
  const lines = planned.flatMap(({ plan }) => planLines(plan));
  if (!options.yes && !(await isSure(context, lines))) return ExitCode.no;
  const by = userInfo().username;
  const done: InterventionAnswer[] = [];
  for (const { client } of planned) done.push(await client.intervene(request, by));
  const text = options.json ? JSON.stringify(done, null, 2) : done.flatMap(planLines).join('\n');
  context.stdout.write(`${text}\n`);
  return ExitCode.ok;
}

const PASSED_OVER = ['BOOTSTRAP_INTERVENTION_REFUSED', 'STORAGE_NOT_READY'];

function planLines({ node, effects }: InterventionAnswer): string[] {
  return effects.map((effect) => `${node}: ${effect}`);
}

function requested(given: readonly string[], options: Options<'bootstrap'>): BootstrapRequestBody {
  const [action, what, ...more] = given;
  const most = action === 'retry' ? 0 : 1;
  if (more.length > 0 || (what !== undefined && most === 0)) throw usage(`"${more[0] ?? what}" is too much`);
  switch (action) {
    case 'retry':
      return { action: 'retry' };
    case 'skip-peer':
      if (what === undefined) throw usage('varve bootstrap skip-peer needs the name of a node');
      return { action: 'skipPeer', peer: what, forMs: options.for };
    case 'accept-loss':
      if (what === undefined) throw usage('varve bootstrap accept-loss needs a shard');
      return { action: 'acceptLoss', namespace: options.namespace, ...lostRange(what) };
    default:
      throw usage(`there is no varve bootstrap ${action ?? ''}`.trimEnd());
  }
}

/** `SHARD`, `SHARD/START` or `SHARD/START..END`: blocks that have any instant of the range. */
function lostRange(text: string): {
  readonly shard: number;
  readonly start: string | undefined;
  readonly end: string | undefined;
} {
  const [, digits, start, end] = /^(\d{1,9})(?:\/([^/]*?)(?:\.\.([^/]*))?)?$/.exec(text) ?? [];
  if (digits === undefined) {
    throw usage(`"${text.slice(0, 60)}" is no shard with a range: SHARD, SHARD/START or SHARD/START..END`);
  }
  return { shard: Number(digits), start: start || undefined, end: end || undefined };
}

function usage(message: string): VarveError {
  return new VarveError('INVALID_ARGUMENT', message, {
    hint: 'varve bootstrap --help lists the actions, docs/shards.md explains them.',
  });
}
