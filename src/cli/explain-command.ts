import { VarveError } from '../core/errors.ts';
import { storageClients } from '../node/storage-access.ts';
import { explanationLines } from '../node/storage-explain.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';

/** `varve explain shard N`: on each storage node that has it, where its data came from, and why not from elsewhere. */
export async function explain(
  context: CliContext,
  flags: Flags,
  [what, shard, ...more]: readonly string[],
): Promise<number> {
  const options = settings(context, 'explain', flags);
  if (what !== 'shard' || shard === undefined || more.length > 0) {
    throw new VarveError('INVALID_ARGUMENT', 'say which shard: varve explain shard N');
  }
  const clients = await storageClients(options);
  const answers = await Promise.all(
    clients.map(async (client) => {
      try {
        return await client.explain(shard);
      } catch (error) {
        if (error instanceof VarveError && error.code === 'STORAGE_NOT_READY') return error;
        throw error;
      }
    }),
  );
  const found = answers.flatMap((answer) => (answer instanceof VarveError ? [] : [answer]));
  if (options.json) context.stdout.write(`${JSON.stringify(found, null, 2)}\n`);
  else {
    const own = found.filter(({ fills }) => fills.length > 0);
    const lines = own.flatMap((answer) => explanationLines(answer, false));
    const text = lines.length > 0 ? lines : [`no node that answers has shard ${shard}`];
    context.stdout.write(`${text.join('\n')}\n`);
  }
  for (const answer of answers) if (answer instanceof VarveError) context.stderr.write(`${answer.message}\n`);
  return found.length > 0 ? ExitCode.ok : ExitCode.no;
}
