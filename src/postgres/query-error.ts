import { VarveError } from '../core/errors.ts';
import { describeEndpoint, type Endpoint } from './endpoint.ts';

export function queryTimeout(endpoint: Endpoint, timeoutMs: number): VarveError {
  return new VarveError(
    'DEADLINE_EXCEEDED',
    `a query on ${describeEndpoint(endpoint)} took longer than ${timeoutMs} ms`,
  );
}

export function unconfirmed(endpoint: Endpoint): VarveError {
  return new VarveError(
    'QUORUM_NOT_REACHED',
    `a commit on ${describeEndpoint(endpoint)} was not confirmed by other servers`,
    { detail: 'Somebody cancelled it while it waited for them.' },
  );
}
