import { expect, test } from 'vitest';
import type { Connection } from '../../postgres/connection.ts';
import { connect } from '../../../test/database.ts';
import { copyGlobals } from './copy-globals.ts';
import { testGroup } from './group-of-three.suite.ts';

const GLOBALS = `select varve_group.globals() as g`;

test.for([18, 16])(
  'roles and what is granted to them are the write master’s on every member, PostgreSQL %s',
  async (major) => {
    await using group = await testGroup(major, ['n1', 'n2']);
    const master = group.master.connection;
    const member = group.members[1]?.connection as Connection;
    const same = async (): Promise<void> => {
      const { problems } = await copyGlobals(master, member);
      expect(problems).toEqual([]);
      expect(await member.one(GLOBALS)).toEqual(await master.one(GLOBALS));
      expect(await copyGlobals(master, member)).toEqual({ changes: [], problems: [] });
    };
    await master.query(`create role "Al ""ice" login password 'secret' valid until '2031-01-01' connection limit 5;
    create role staff noinherit createdb; create role auditor; grant pg_read_all_data to auditor with admin option;
    grant staff to "Al ""ice";
    alter role "Al ""ice" set search_path = "$user", 'a b', public; alter role staff set work_mem = '7MB';
    alter role "Al ""ice" in database app set statement_timeout = '5s'; alter database app set timezone = 'Asia/Tokyo';
    alter database app set default_transaction_read_only = on; alter database app reset default_transaction_read_only;
    grant create on database app to staff with grant option; revoke temporary on database app from public;
    alter database app owner to auditor`);
    await same();
    const { host, port } = group.members[1]?.test.server.admin() ?? { host: '', port: 0 };
    await using session = await connect({ host, port, database: 'app', user: 'Al "ice', password: 'secret' });
    expect(await session.one('select current_setting($1) as path', ['search_path'])).toEqual({
      path: '"$user", "a b", public',
    });

    await member.query(`set varve_group.ddl = off; create role of_this_server_only`);
    await member.query(
      `alter database app set default_transaction_read_only = on; set default_transaction_read_only = off`,
    );
    await master.query(`alter role "Al ""ice" password 'other'; revoke staff from "Al ""ice"; alter role staff reset work_mem;
    alter role auditor superuser; revoke create on database app from staff; alter database app owner to postgres;
    alter role auditor password null; create role short_lived; grant staff to short_lived`);
    await copyGlobals(master, member);
    await master.query('drop role short_lived');
    await copyGlobals(master, member);
    const names = `select rolname from pg_roles where rolname !~ '^pg_' order by 1`;
    const { rows } = await member.query<{ rolname: string }>(names);
    expect(rows.map(({ rolname }) => rolname)).toEqual([
      'Al "ice',
      'auditor',
      'of_this_server_only',
      'postgres',
      'staff',
    ]);
    expect(await copyGlobals(master, member)).toEqual({ changes: [], problems: [] });
  },
);

test('a role that still owns something here is not dropped, and that is told', async () => {
  await using group = await testGroup(18, ['n1', 'n2']);
  const master = group.master.connection;
  const member = group.members[1]?.connection as Connection;
  await master.query('create role owner_of_it; create table x (); alter table x owner to owner_of_it');
  await group.caughtUp();
  await copyGlobals(master, member);
  await master.query('reassign owned by owner_of_it to postgres; drop role owner_of_it');
  expect(await copyGlobals(master, member)).toMatchObject({
    problems: [expect.stringContaining('drop role owner_of_it')],
  });
  await expect(copyGlobals(member, master)).rejects.toMatchObject({ sqlstate: '55000' });
  await expect(master.query('drop owned by postgres')).rejects.toMatchObject({ code: 'QUERY_FAILED' });
});
