import { userInfo } from 'node:os';
import { VarveError } from '../core/errors.ts';
import type { Options } from '../config/options.ts';
import { changeLines, planLines, viewLines } from '../node/placement-lines.ts';
import type { NewNode, PlacementRequest } from '../node/placement-request.ts';
import { firstAnswer, storageClients } from '../node/storage-access.ts';
import { isSure } from './confirm.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';

type PlacementOptions = Options<'placement'>;

/** `varve placement ACTION …`: by way of any storage node that answers. */
export async function placement(
  context: CliContext,
  flags: Flags,
  given: readonly string[],
): Promise<number> {
  const options = settings(context, 'placement', flags);
  const clients = await storageClients(options);
  const print = (data: unknown, lines: readonly string[]): void =>
    void context.stdout.write(`${options.json ? JSON.stringify(data, null, 2) : lines.join('\n')}\n`);
  const [action, ...rest] = given;
  if (action === 'show') {
    const view = await firstAnswer(clients, (client) => client.placement());
    print(view, viewLines(view));
    return view.placement ? ExitCode.ok : ExitCode.no;
  }
  const isPlan = action === 'plan';
  const change = requested(isPlan ? rest : given, options);
  const plan = await firstAnswer(clients, (client) => client.planPlacement(change));
  if (isPlan) {
    print(plan, planLines(plan));
    return ExitCode.ok;
  }
  if (!options.yes && !(await isSure(context, planLines(plan)))) return ExitCode.no;
  const by = userInfo().username;
  const status = await firstAnswer(clients, (client) => client.changePlacement(change, by));
  print(status, changeLines(status));
  return ExitCode.ok;
}

function requested(given: readonly string[], options: PlacementOptions): PlacementRequest {
  const [action, ...names] = given;
  const named = (index: number): string => {
    const name = names[index];
    if (name !== undefined) return name;
    throw usage(
      `varve placement ${action ?? ''} needs ${index === 0 ? 'the name of a node' : 'a second name'}`,
    );
  };
  const refuseMore = (count: number): void => {
    if (names.length > count)
      throw usage(`"${names[count]}" is too much behind varve placement ${action ?? ''}`);
  };
  const node = (id: string): NewNode => ({
    id,
    endpoint: options.endpoint,
    isolationGroup: options.isolationGroup,
    weight: options.weight,
  });
  switch (action) {
    case 'init': {
      refuseMore(1);
      const nodes = named(0).split(',').map(initialNode);
      return { action, nodes, replicas: options.replicas };
    }
    case 'add':
      refuseMore(1);
      return { action, node: node(named(0)) };
    case 'remove':
      refuseMore(1);
      return { action, id: named(0) };
    case 'replace':
      refuseMore(2);
      return { action, id: named(0), by: node(named(1)) };
    default:
      throw usage(`there is no varve placement ${action ?? ''}`.trimEnd());
  }
}

/** `NAME`, `NAME@GROUP`, `NAME=http://host:port` or `NAME@GROUP=http://host:port`. */
function initialNode(text: string): NewNode {
  const at = text.indexOf('=');
  const [id = '', isolationGroup] = (at < 0 ? text : text.slice(0, at)).split('@');
  return { id, isolationGroup, endpoint: at < 0 ? undefined : text.slice(at + 1) };
}

function usage(message: string): VarveError {
  return new VarveError('INVALID_ARGUMENT', message, {
    hint: 'varve placement --help lists actions and flags, docs/placement.md explains them.',
  });
}
