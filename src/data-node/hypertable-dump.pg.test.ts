import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { connect, serverFacts, startTestServer, testDatabase } from '../../test/database.ts';
import { distributedDatabase } from '../../test/distributed-database.ts';
import { testBinaries } from '../../test/postgres-server.ts';

const run = promisify(execFile);

/** Of the servers that the tests start, only Debian's PostgreSQL 15 brings `pg_dump` along. */
const { majors } = serverFacts();
const binaries = majors.includes(15) ? await testBinaries(15) : undefined;
const pgDump = join(binaries?.binDir ?? '', 'pg_dump');

it.skipIf(!existsSync(pgDump))('a hypertable is whole again after pg_dump and restore', async () => {
  await using server = await startTestServer(15);
  const admin = server.server.admin();
  await using bed = await distributedDatabase({
    admin,
    dataDir: join(server.folder, 'data'),
    there: admin,
    nodes: ['dn1', 'dn2'],
  });
  await using original = await bed.access.connect();
  await original.query(`create table "Mixed Name" (time timestamptz, k text, v integer check (v > 0));
    create index "An Index" on "Mixed Name" (v);
    select * from create_distributed_hypertable('"Mixed Name"', 'time', 'k', 4);
    insert into "Mixed Name" select now(), i, i from generate_series(1, 20) i;
    grant select on "Mixed Name" to pg_monitor`);
  const before = await bed.remains();
  const { stdout } = await run(
    pgDump,
    ['--host', admin.host, '--port', String(admin.port), '--username', admin.user, bed.access.database.name],
    { env: { PGPASSWORD: admin.password ?? '' }, maxBuffer: 1 << 26 },
  );
  await using copy = await testDatabase({ admin });
  const file = join(server.folder, 'dump.sql');
  await writeFile(file, stdout);
  const restored = await run(
    join(binaries?.binDir ?? '', 'psql'),
    [
      '--no-psqlrc',
      '--set',
      'ON_ERROR_STOP=1',
      '--host',
      admin.host,
      '--port',
      String(admin.port),
      '--username',
      admin.user,
      '--dbname',
      copy.name,
      '--file',
      file,
    ],
    { env: { PGPASSWORD: admin.password ?? '' }, maxBuffer: 1 << 26 },
  );
  expect(restored.stderr).toBe('');
  await using session = await connect(copy.endpoint);
  expect(await session.one('select sum(v)::int as v from "Mixed Name"')).toEqual({ v: 210 });
  const shards =
    'select hypertable_name, shard, node_name, state, partition::text from varve.shards order by 2';
  expect((await session.query(shards)).rows).toEqual((await original.query(shards)).rows);
  await expect(session.query('alter table "Mixed Name" add column x int')).rejects.toMatchObject({
    sqlstate: '0A000',
  });
  await session.query('alter table "Mixed Name" rename to renamed');
  await session.query('alter index "An Index" rename to another');
  await session.query('alter table renamed alter column v set default 7');
  await session.query(`insert into renamed values (now(), 'a')`);
  expect(await bed.remains()).toEqual(before);
});
