import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import { SqlState } from '../../postgres/sqlstate.ts';
import { BrokerError } from './broker-error.ts';

/** A row of `cfsb.operations`: at most one per instance is in progress. */
export interface OperationRow {
  readonly id: string;
  readonly kind: 'provision' | 'deprovision';
  readonly state: 'in progress' | 'succeeded' | 'failed';
  readonly request: Readonly<Record<string, unknown>>;
  readonly description: string;
  /** Its deadline is over. */
  readonly overdue: boolean;
}

const COLUMNS = `id, kind, state, request, description, coalesce(deadline < clock_timestamp(), false) as overdue`;

export async function operationInProgress(
  connection: Connection,
  instanceId: string,
): Promise<OperationRow | undefined> {
  return connection.maybeOne<OperationRow>(
    `select ${COLUMNS} from cfsb.operations where instance_id = $1 and state = 'in progress'`,
    [instanceId],
  );
}

/** That one, or the last of the instance. */
export async function findOperation(
  connection: Connection,
  instanceId: string,
  operationId: string | undefined,
): Promise<OperationRow | undefined> {
  const { rows } = await connection.query<OperationRow>(
    `select ${COLUMNS} from cfsb.operations where instance_id = $1 and ($2::text is null or id::text = $2)
      order by created_at desc, id desc limit 1`,
    [instanceId, operationId ?? null],
  );
  return rows[0];
}

/** @throws BrokerError ConcurrencyError when one is in progress already */
export async function beginOperation(
  connection: Connection,
  instanceId: string,
  operation: {
    readonly kind: OperationRow['kind'];
    readonly request: object;
    readonly description: string;
    readonly timeoutMs: number | null;
  },
): Promise<OperationRow> {
  const row = await connection.maybeOne<OperationRow>(
    `insert into cfsb.operations (instance_id, kind, request, description, deadline)
     values ($1, $2, $3, $4, now() + $5::float8 * interval '1 ms')
     on conflict (instance_id) where state = 'in progress' do nothing returning ${COLUMNS}`,
    [
      instanceId,
      operation.kind,
      JSON.stringify(operation.request),
      operation.description,
      operation.timeoutMs,
    ],
  );
  if (row) return row;
  throw new BrokerError('ConcurrencyError', 'Another operation for this service instance is in progress.');
}

/** In the caller's transaction. @throws BrokerError ConcurrencyError while another works on it */
export async function lockOperation(connection: Connection, id: string): Promise<OperationRow | undefined> {
  return locking(() =>
    connection.maybeOne<OperationRow>(
      `select ${COLUMNS} from cfsb.operations where id = $1 for update nowait`,
      [id],
    ),
  );
}

export async function endOperation(
  connection: Connection,
  id: string,
  end: { readonly state: 'succeeded' | 'failed'; readonly description: string },
): Promise<void> {
  await connection.query(
    `update cfsb.operations set state = $2, description = $3, updated_at = now()
      where id = $1 and state = 'in progress'`,
    [id, end.state, end.description],
  );
}

/** A lock that another has is no error of ours: the platform is to ask again. */
export async function locking<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof VarveError && error.sqlstate === SqlState.lockNotAvailable) {
      throw new BrokerError('ConcurrencyError', 'Another request for the same is being worked on.');
    }
    throw error;
  }
}
