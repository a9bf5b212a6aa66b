import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, open, readdir, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { testAccessNode, traces, type TestAccessNode } from '../../test/access-node.ts';
import { connect } from '../../test/database.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { EMBEDDED_FROM, TEST_SETTINGS } from '../../test/postgres-server.ts';
import type { Connection, Endpoint } from '../postgres/connection.ts';
import { startServer, type OwnServer } from '../postgres/server.ts';

/**
 * A data node's server that has no room, no connections left, lets the role in nowhere or not everywhere, or
 * takes no writes: the error says so with the server's SQLSTATE, nothing is left, and the same call succeeds
 * when the trouble is over.
 */
const run = promisify(execFile);
const mayMount = await canMount();
if (!mayMount) console.warn('\n  SKIPPED, because this user may not mount a file system: a full disk\n');

const plain = { user: 'plain_fs', password: 'ppw' };
const outcast = { user: 'outcast_fs', password: 'opw' };

let folder: string;
let server: OwnServer;
let access: TestAccessNode;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}fail-`));
  server = await start();
  const admin = server.admin();
  for (const endpoint of [admin, undefined]) {
    await using connection = await connect(endpoint);
    for (const { user, password } of [plain, outcast])
      await connection.query(`create role ${user} login createdb password '${password}'`);
  }
  access = await testAccessNode({
    logins: [admin, { ...admin, ...plain }, { ...admin, ...outcast }],
  });
  await using session = await access.connect();
  for (const { user } of [plain, outcast])
    await session.query(`grant usage on foreign data wrapper postgres_fdw to ${user}`);
});

afterAll(async () => {
  await access?.[Symbol.asyncDispose]();
  await server?.stop();
  await rm(folder, { recursive: true, force: true });
  await using connection = await connect();
  for (const { user } of [plain, outcast]) await connection.query(`drop role if exists ${user}`);
});

/** The same server each time. */
function start(): Promise<OwnServer> {
  return startServer({
    folder,
    port: 0,
    binaries: { kind: 'auto', major: 18, embeddedFrom: EMBEDDED_FROM },
    durable: false,
    settings: { ...TEST_SETTINGS, max_connections: '10' },
    hba: [
      `host closed   ${outcast.user} 127.0.0.1/32 reject`,
      `host postgres ${plain.user}   127.0.0.1/32 scram-sha-256`,
      `host all      ${plain.user}   127.0.0.1/32 scram-sha-256`,
      `host postgres ${outcast.user} 127.0.0.1/32 scram-sha-256`,
      `host all      ${outcast.user} 127.0.0.1/32 reject`,
    ],
  });
}

function at(database: string, user: Partial<Endpoint> = {}): Endpoint {
  return { ...server.admin(), database, ...user };
}

function add(caller: Connection, database: string, more = ''): Promise<object> {
  return caller.one(`select * from add_data_node('dn', '127.0.0.1', $1, $2${more})`, [database, server.port]);
}

/** The call fails as `error` says, and when everything is settled nothing is there that was not there before. */
async function expectFailure(
  caller: Connection,
  call: { readonly database: string; readonly more?: string },
  error: object,
): Promise<void> {
  const endpoints = [at('postgres'), access.database.endpoint];
  const before = await traces(endpoints);
  await expect(add(caller, call.database, call.more)).rejects.toMatchObject(error);
  await access.settled();
  expect(await traces(endpoints)).toEqual(before);
}

async function expectSuccess(caller: Connection, database: string): Promise<void> {
  expect(await add(caller, database)).toMatchObject({ node_created: true });
  await caller.query(`select delete_data_node('dn', drop_database => true)`);
  await access.settled();
}

describe('a server without a free connection', () => {
  const taken: Connection[] = [];

  async function takeAll(): Promise<void> {
    for (;;) {
      const more = await connect(at('postgres', plain)).catch(() => undefined);
      if (!more) return;
      taken.push(more);
    }
  }

  afterEach(async () => {
    for (const connection of taken.splice(0)) await connection.close();
  });

  it('is told so, with the server’s words', async () => {
    await using caller = await access.connect(plain);
    await takeAll();
    await expectFailure(
      caller,
      { database: 'crowded' },
      {
        sqlstate: '53300',
        message: `could not connect to 127.0.0.1:${server.port}`,
        detail: expect.stringContaining('remaining connection slots are reserved') as string,
        hint: expect.stringContaining('max_connections') as string,
      },
    );
  });

  it('when the database is made already: it is dropped again as soon as there is one', async () => {
    await using caller = await access.connect(plain);
    await takeAll();
    // For the first session of the call, and none for the second.
    await taken.pop()?.close();
    await expectFailure(caller, { database: 'crowded' }, { sqlstate: '53300' });
    const done = access.service.status().at(-1);
    expect(done).toMatchObject({
      state: 'undone',
      operation: { facts: { databaseOid: expect.any(Number) } },
    });
    for (const connection of taken.splice(0)) await connection.close();
    await expectSuccess(caller, 'crowded');
  });
});

describe('a server whose pg_hba.conf rejects the role', () => {
  it('in the database that was made for it: that is dropped again', async () => {
    await using caller = await access.connect(outcast);
    await expectFailure(
      caller,
      { database: 'inner' },
      {
        sqlstate: '28000',
        message: `could not log in to 127.0.0.1:${server.port} as "${outcast.user}"`,
        detail: expect.stringContaining('pg_hba.conf rejects connection') as string,
        hint: expect.stringContaining('must exist on the data node') as string,
      },
    );
    expect(access.service.status().at(-1)).toMatchObject({ state: 'undone' });
  });

  it('in a database that is only to be validated', async () => {
    await using caller = await access.connect(outcast);
    await expectFailure(
      caller,
      { database: 'closed', more: ', bootstrap => false' },
      { sqlstate: '28000', detail: expect.stringContaining('pg_hba.conf rejects connection') as string },
    );
  });
});

describe.skipIf(!mayMount)('a full disk', () => {
  let base: string;

  /** Puts the databases, not the WAL, on a file system of their own: a full WAL disk stops the whole server. */
  beforeAll(async () => {
    await server.stop();
    base = join(folder, 'data', 'base');
    const { uid, gid } = await stat(base);
    const copy = join(folder, 'base-copy');
    await run('cp', ['-a', base, copy]);
    await run('mount', ['-t', 'tmpfs', '-o', `size=64m,mode=0700,uid=${uid},gid=${gid}`, 'tmpfs', base]);
    await run('cp', ['-a', `${copy}/.`, base]);
    server = await start();
  });

  afterAll(async () => {
    await server.stop();
    const copy = join(folder, 'base-back');
    await run('cp', ['-a', base, copy]);
    await run('umount', [base]);
    await run('cp', ['-a', `${copy}/.`, base]);
    server = await start();
  });

  const filler = (): string => join(base, 'filler');

  afterEach(() => rm(filler(), { force: true }));

  /** Leaves `freeBytes`. */
  async function fill(freeBytes: number): Promise<void> {
    await using file = await open(filler(), 'w');
    const block = Buffer.alloc(4096);
    let size = 0;
    for (;;) {
      const written = await file.write(block).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOSPC') return undefined;
        throw error;
      });
      if (!written) break;
      size += written.bytesWritten;
    }
    await file.truncate(Math.max(0, size - freeBytes));
  }

  async function folders(): Promise<string[]> {
    return (await readdir(base)).filter((name) => name !== 'filler').sort();
  }

  /** What a new database takes of the disk. */
  async function databaseSizeBytes(): Promise<number> {
    const freeBytes = async (): Promise<number> => {
      const { bavail, bsize } = await statfs(base);
      return bavail * bsize;
    };
    await using connection = await connect(at('postgres'));
    const before = await freeBytes();
    await connection.query('create database probe template template0');
    const after = await freeBytes();
    await connection.query('drop database probe');
    return before - after;
  }

  const NO_SPACE = {
    code: 'QUERY_FAILED',
    sqlstate: '53100',
    message: expect.stringMatching(/^\[dn\]: could not .*No space left on device$/) as string,
    hint: expect.any(String) as string,
  };

  it('when the database is made: an error that says so, no trace, and success after there is room', async () => {
    await using caller = await access.connect(plain);
    const before = await folders();
    await fill(0);
    await expectFailure(caller, { database: 'big' }, NO_SPACE);
    expect(await folders()).toEqual(before);
    await rm(filler());
    await expectSuccess(caller, 'big');
    expect(await folders()).toEqual(before);
  });

  it('when the extension is made in the new database: that is dropped again', async () => {
    await using caller = await access.connect(plain);
    const before = await folders();
    await fill((await databaseSizeBytes()) + 192 * 1024);
    await expectFailure(caller, { database: 'big' }, NO_SPACE);
    expect(access.service.status().at(-1)).toMatchObject({ state: 'undone' });
    const failed = access.events.history().findLast(({ state, step }) => state === 'failed' && step !== '');
    expect(failed).toMatchObject({ step: 'become-data-node' });
    expect(await folders()).toEqual(before);
    await rm(filler());
    await expectSuccess(caller, 'big');
  });

  it('when the extension is made in a database that was there: that stays as it was', async () => {
    await using admin = await connect(at('postgres'));
    await admin.query(`create database existing template template0 owner ${plain.user}`);
    await using caller = await access.connect(plain);
    const before = await traces([at('existing')]);
    await fill(0);
    await expectFailure(caller, { database: 'existing' }, NO_SPACE);
    await rm(filler());
    expect(await traces([at('existing')])).toEqual(before);
    await expectSuccess(caller, 'existing');
  });
});

describe('a standby', () => {
  const signal = (): string => join(folder, 'data', 'standby.signal');

  beforeAll(async () => {
    await using admin = await connect(at('postgres'));
    await admin.query(`create database followed template template0 owner ${plain.user}`);
    await admin.close();
    await server.stop();
    await writeFile(signal(), '');
    server = await start();
  });

  afterAll(async () => {
    await server.stop();
    await rm(signal());
    server = await start();
  });

  it.each([
    ['a new database', 'new', ''],
    ['a database that is there', 'followed', ''],
    ['validation only', 'followed', ', bootstrap => false'],
  ])('is refused for %s before anything is tried', async (_what, database, more) => {
    await using caller = await access.connect(plain);
    const error = await add(caller, database, more).catch((e: unknown) => e);
    const { message, detail } = error as { message: string; detail?: string };
    expect(error).toMatchObject({ sqlstate: '25006' });
    expect(`${message}\n${detail}`).toContain(
      `the server on 127.0.0.1:${server.port} is a standby and takes no writes`,
    );
    expect((await caller.query('select * from varve.data_nodes')).rows).toEqual([]);
  });
});

async function canMount(): Promise<boolean> {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return false;
  const point = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}mount-`));
  try {
    await mkdir(point, { recursive: true });
    await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', point]);
    await run('umount', [point]);
    return true;
  } catch {
    return false;
  } finally {
    await rm(point, { recursive: true, force: true });
  }
}
