import { VarveError } from '../core/errors.ts';
import { quoteLiteral } from '../postgres/sql.ts';

/** What `varve data-node ACTION NAME HOST` was given. */
export interface DataNodeRequest {
  readonly action: string | undefined;
  readonly name: string | undefined;
  readonly host: string | undefined;
  readonly port: number | undefined;
  readonly nodeDatabase: string | undefined;
  readonly bootstrap: boolean;
  readonly ifNotExists: boolean;
  readonly ifExists: boolean;
  readonly force: boolean;
  readonly dropDatabase: boolean;
}

export const DATA_NODE_ACTIONS = ['list', 'plan', 'add', 'remove'] as const;

/**
 * The statement that does it: the commands are the SQL functions under another name. Pure.
 * @throws INVALID_ARGUMENT for a missing or unknown argument
 */
export function dataNodeStatement(request: DataNodeRequest): string {
  const { action, name, host } = request;
  switch (action) {
    case 'list':
      return 'select * from varve.data_nodes order by node_name';
    case 'plan':
      return `select * from plan_data_node(${addArguments(request)})`;
    case 'add':
      return `select * from add_data_node(${[addArguments(request), ...flag('if_not_exists', request.ifNotExists)].join(', ')})`;
    case 'remove':
      return `select delete_data_node(${[
        quoteLiteral(need(name, 'NAME')),
        ...flag('if_exists', request.ifExists),
        ...flag('force', request.force),
        ...flag('drop_database', request.dropDatabase),
      ].join(', ')})`;
    default:
      throw new VarveError('INVALID_ARGUMENT', `varve data-node cannot "${action ?? host ?? ''}"`, {
        hint: `It can ${DATA_NODE_ACTIONS.join(', ')}.`,
      });
  }
}

function addArguments({ name, host, port, nodeDatabase, bootstrap }: DataNodeRequest): string {
  return [
    quoteLiteral(need(name, 'NAME')),
    quoteLiteral(need(host, 'HOST')),
    ...(nodeDatabase === undefined ? [] : [`database => ${quoteLiteral(nodeDatabase)}`]),
    ...(port === undefined ? [] : [`port => ${port}`]),
    ...(bootstrap ? [] : ['bootstrap => false']),
  ].join(', ');
}

function flag(name: string, given: boolean): string[] {
  return given ? [`${name} => true`] : [];
}

function need(value: string | undefined, what: string): string {
  if (value !== undefined && value !== '') return value;
  throw new VarveError('INVALID_ARGUMENT', `${what} is missing`, {
    hint: 'varve data-node add NAME HOST; remove NAME; list',
  });
}
