import { createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { connect, serverEndpoint, testDatabase } from '../../test/database.ts';
import { Connection, PLAIN_SESSION, type Notice } from './connection.ts';
import { SqlState, sqlStateOf } from './sqlstate.ts';

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()));
});

/** A host that takes connections; what it does with them is up to `onSocket`. */
async function host(onSocket: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}));
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return (server.address() as { port: number }).port;
}

describe('opening', () => {
  it('sends all settings in the startup packet', async () => {
    await using connection = await connect(serverEndpoint(), {
      applicationName: 'a test',
      statementTimeoutMs: 0,
      lockTimeoutMs: 1500,
      settings: { ...PLAIN_SESSION, search_path: '"a b\\", pg_catalog' },
    });
    const { settings } = await connection.one<{ settings: string[] }>(
      `select array_agg(current_setting(n) order by i) as settings
         from unnest($1::text[]) with ordinality as s (n, i)`,
      [['search_path', 'timezone', 'statement_timeout', 'lock_timeout', 'application_name']],
    );
    expect(settings).toEqual(['"a b\\", pg_catalog', 'UTC', '0', '1500ms', 'a test']);
  });

  it.each([
    ['a wrong password', { password: 'wrong' }, 'LOGIN_FAILED', SqlState.invalidPassword],
    ['no password', { password: undefined }, 'LOGIN_FAILED', SqlState.invalidPassword],
    ['an empty password', { password: '' }, 'LOGIN_FAILED', undefined],
    ['an unknown database', { database: 'none such' }, 'CONNECTION_FAILED', SqlState.invalidCatalogName],
    ['a closed port', { port: 1 }, 'CONNECTION_FAILED', SqlState.cannotConnect],
    ['an unknown name', { host: 'no-such-host.invalid' }, 'CONNECTION_FAILED', SqlState.cannotConnect],
    ['a folder without a socket', { host: '/var/empty' }, 'CONNECTION_FAILED', SqlState.cannotConnect],
    ['a port that is none', { port: 70_000 }, 'INVALID_ARGUMENT', SqlState.invalidParameterValue],
    ['an empty host', { host: '' }, 'INVALID_ARGUMENT', SqlState.invalidParameterValue],
    ['TLS that the server lacks', { tls: { mode: 'require' as const } }, 'CONNECTION_FAILED', undefined],
  ])('with %s is a typed error', async (_what, change, code, sqlstate) => {
    const error: unknown = await connect({ ...serverEndpoint(), ...change }).catch((e: unknown) => e);
    expect(error).toMatchObject({ code, ...(sqlstate ? { sqlstate } : {}) });
    const { password } = serverEndpoint();
    expect(JSON.stringify(error)).not.toContain(password);
  });

  it('goes on in the clear when TLS is only preferred', async () => {
    await using connection = await connect({ ...serverEndpoint(), tls: { mode: 'prefer' } });
    expect(await connection.one('select ssl from pg_stat_ssl where pid = pg_backend_pid()')).toEqual({
      ssl: false,
    });
  });

  it.each(['accepts and says nothing', 'sends half a message', 'is no PostgreSQL', 'hangs up'])(
    'fails in time at a host that %s',
    async (how) => {
      const port = await host((socket) => {
        if (how === 'sends half a message') socket.write(Buffer.from([0x52, 0, 0, 0]));
        if (how === 'is no PostgreSQL') socket.write('HTTP/1.1 400 Bad Request\r\n\r\n');
        if (how === 'hangs up') socket.end();
      });
      const opening = connect({ ...serverEndpoint(), port }, { connectTimeoutMs: 300 });
      await expect(opening).rejects.toMatchObject({
        code: 'CONNECTION_FAILED',
        sqlstate: SqlState.cannotConnect,
        message: expect.stringContaining(`127.0.0.1:${port}/postgres`) as string,
      });
    },
  );

  it('ends with the reason of its signal', async () => {
    const port = await host(() => {});
    const abort = new AbortController();
    const opening = connect({ ...serverEndpoint(), port }, { signal: abort.signal });
    const reason = new Error('enough');
    abort.abort(reason);
    await expect(opening).rejects.toBe(reason);
  });
});

describe('a query', () => {
  it('keeps message, detail, hint and SQLSTATE of the server', async () => {
    await using connection = await connect();
    const raised = connection.query(
      `do $$begin raise exception 'm' using detail = 'd', hint = 'h', errcode = 'TS174'; end$$`,
    );
    await expect(raised).rejects.toMatchObject({
      code: 'QUERY_FAILED',
      message: 'm',
      detail: 'd',
      hint: 'h',
      sqlstate: 'TS174',
    });
    expect(sqlStateOf(((await raised.catch((error: unknown) => error)) as Error).cause)).toBe('TS174');
    expect(await connection.one('select 1 as one')).toEqual({ one: 1 });
  });

  it('of several statements gives the result of the last', async () => {
    await using connection = await connect();
    expect(await connection.query('select 1 as a; select 2 as b')).toEqual({
      rows: [{ b: 2 }],
      rowCount: 1,
      command: 'SELECT',
    });
  });

  it('waits for the one before it', async () => {
    await using connection = await connect();
    const answers = await Promise.all([
      connection.one('select 1 as n, pg_sleep(0.05)'),
      connection.one('select 2 as n'),
    ]);
    expect(answers.map((row) => (row as { n: number }).n)).toEqual([1, 2]);
  });

  it('that is aborted is cancelled on the server, and the session goes on', async () => {
    await using connection = await connect();
    const abort = new AbortController();
    const reason = new Error('enough');
    const query = connection.query('select pg_sleep(60)', [], { signal: abort.signal });
    setTimeout(() => abort.abort(reason), 50);
    await expect(query).rejects.toBe(reason);
    expect(await connection.one('select 1 as one')).toEqual({ one: 1 });
  });

  it('that outlasts its deadline is cancelled', async () => {
    await using connection = await connect();
    await expect(connection.query('select pg_sleep(60)', [], { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'DEADLINE_EXCEEDED',
    });
    expect(await connection.one('select 1 as one')).toEqual({ one: 1 });
  });

  it('that the server stops by statement_timeout has the server’s SQLSTATE', async () => {
    await using connection = await connect(serverEndpoint(), { statementTimeoutMs: 50 });
    await expect(connection.query('select pg_sleep(60)')).rejects.toMatchObject({
      code: 'QUERY_FAILED',
      sqlstate: SqlState.queryCanceled,
    });
  });

  it('begun after the connection’s signal fails at once', async () => {
    const abort = new AbortController();
    await using connection = await connect(serverEndpoint(), { signal: abort.signal });
    const reason = new Error('enough');
    abort.abort(reason);
    await expect(connection.query('select 1')).rejects.toBe(reason);
  });

  it('ends when the host falls silent in the middle of it', async () => {
    const target = serverEndpoint();
    const { Socket: NetSocket } = await import('node:net');
    let cut = false;
    const port = await host((socket) => {
      // A cancel request comes after the cut, and is swallowed too.
      const onward = new NetSocket().on('error', () => {}).connect(target.port, target.host);
      socket.on('data', (data) => cut || onward.write(data));
      onward.on('data', (data) => cut || socket.write(data));
      socket.on('close', () => onward.destroy());
    });
    const connection = await connect({ ...target, port });
    cut = true;
    await expect(connection.query('select 1', [], { timeoutMs: 100 })).rejects.toMatchObject({
      code: 'DEADLINE_EXCEEDED',
    });
    expect(connection.closed).toBe(true);
    await connection.close();
  });
});

describe('a transaction', () => {
  it('commits what its work did, and rolls back when that fails', async () => {
    await using database = await testDatabase();
    await using connection = await database.connect();
    await connection.query('create table t (n int)');
    await connection.transaction(() => connection.query('insert into t values (1)'));
    const failure = new Error('no');
    const failed = connection.transaction(async () => {
      await connection.query('insert into t values (2)');
      throw failure;
    });
    await expect(failed).rejects.toBe(failure);
    expect((await connection.query('select n from t')).rows).toEqual([{ n: 1 }]);
  });

  it('whose failed statement was passed over is not reported as committed', async () => {
    await using connection = await connect();
    const passedOver = connection.transaction(() => connection.query('select 1/0').catch(() => 'fine'));
    await expect(passedOver).rejects.toMatchObject({ sqlstate: SqlState.inFailedSqlTransaction });
    expect(connection.inTransaction).toBe(false);
  });

  it('is rolled back although the signal has fired', async () => {
    const abort = new AbortController();
    await using connection = await connect(serverEndpoint(), { signal: abort.signal });
    const aborted = connection.transaction(async () => {
      abort.abort(new Error('enough'));
      await connection.query('select 1');
    });
    await expect(aborted).rejects.toThrow('enough');
    expect(connection.inTransaction).toBe(false);
  });
});

describe('a session', () => {
  it('that the server terminates is reported lost, and ends nothing else', async () => {
    await using connection = await connect();
    await using other = await connect();
    await other.query('select pg_terminate_backend($1)', [connection.backendPid]);
    expect(sqlStateOf(await connection.lost)).toBe(SqlState.adminShutdown);
    expect(connection.closed).toBe(true);
    await expect(connection.query('select 1')).rejects.toMatchObject({
      code: 'CONNECTION_LOST',
      sqlstate: SqlState.adminShutdown,
    });
  });

  it('that ends under a query is CONNECTION_LOST', async () => {
    await using connection = await connect();
    await expect(connection.query('select pg_terminate_backend(pg_backend_pid())')).rejects.toMatchObject({
      code: 'CONNECTION_LOST',
    });
  });

  it('passes on notices', async () => {
    const notices: Notice[] = [];
    await using connection = await connect(serverEndpoint(), { onNotice: (notice) => notices.push(notice) });
    await connection.query(`do $$begin raise warning 'careful' using hint = 'h', errcode = '01P01'; end$$`);
    expect(notices).toMatchObject([{ severity: 'WARNING', code: '01P01', message: 'careful', hint: 'h' }]);
  });

  it('is gone from the server when close resolves', async () => {
    const connection = await connect();
    const { backendPid } = connection;
    await connection.close();
    await using other = await connect();
    expect(
      await other.maybeOne('select 1 from pg_stat_activity where pid = $1', [backendPid]),
    ).toBeUndefined();
  });

  it('refuses queries after close', async () => {
    const connection = await connect();
    await Promise.all([connection.close(), connection.close()]);
    await expect(connection.query('select 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  });

  it('reads no environment variable of libpq', async () => {
    const wrong = { PGPASSWORD: 'wrong', PGOPTIONS: '-c bad', PGSSLMODE: 'require', PGUSER: 'x' };
    for (const [name, value] of Object.entries(wrong)) vi.stubEnv(name, value);
    try {
      await using connection = await Connection.open(serverEndpoint(), { connectTimeoutMs: 5000 });
      expect(connection.closed).toBe(false);
    } finally {
      vi.unstubAllEnvs();
    }
  });
});
