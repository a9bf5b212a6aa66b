import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Connection } from '../../postgres/connection.ts';
import { quoteLiteral } from '../../postgres/sql.ts';
import { connect, startTestServer, type TestServer } from '../../../test/database.ts';
import { installGroupSchema } from './install.ts';

export interface TestMember {
  readonly node: string;
  readonly test: TestServer;
  readonly connection: Connection;
}

/** Servers whose database `app` is a group with all edges; the first is write master. */
export interface TestGroup extends AsyncDisposable {
  readonly groupUuid: string;
  readonly master: TestMember;
  readonly members: readonly TestMember[];
  /** Resolves when what the master committed is on the others. */
  caughtUp(): Promise<void>;
  setMaster(node: string): Promise<void>;
}

const DATABASE = 'app';

/** So that a worker that failed tries again soon. */
const SETTINGS = {
  wal_retrieve_retry_interval: '200ms',
  max_logical_replication_workers: '20',
  max_worker_processes: '30',
  track_commit_timestamp: 'on',
};

export async function testGroup(major: number, nodes: readonly string[]): Promise<TestGroup> {
  const groupUuid = randomUUID();
  const members: TestMember[] = [];
  const dispose = async (): Promise<void> => {
    for (const { connection } of members) await connection.close();
    await Promise.all(members.map(({ test }) => test[Symbol.asyncDispose]()));
  };
  try {
    for (const node of nodes) members.push(await testMember(major, node, groupUuid));
    for (const to of members) {
      for (const from of members) if (from !== to) await testEdge(from, to, { copyData: false });
    }
  } catch (error) {
    await dispose();
    throw error;
  }
  let [master] = members;
  const setMaster = async (node: string): Promise<void> => {
    for (const member of members) {
      await member.connection.query('update varve_group.local set master = $1', [node]);
    }
    master = members.find((member) => member.node === node);
  };
  await setMaster(nodes[0] ?? '');
  return {
    groupUuid,
    members,
    get master() {
      if (!master) throw new Error('no such member');
      return master;
    },
    setMaster,
    caughtUp: async () => {
      const from = master?.connection;
      const token = randomUUID();
      await from?.query('insert into varve_group.barrier (token, node) values ($1, $2)', [
        token,
        master?.node,
      ]);
      for (const { connection, node, test } of members) {
        for (let i = 0; ; i += 1) {
          if (await connection.maybeOne('select 1 from varve_group.barrier where token = $1', [token])) break;
          if (i > 1500) throw new Error(`${node} does not catch up: ${await lastErrors(test)}`);
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
      }
    },
    [Symbol.asyncDispose]: dispose,
  };
}

export async function testMember(major: number, node: string, groupUuid: string): Promise<TestMember> {
  const test = await startTestServer(major, { settings: SETTINGS });
  try {
    const admin = test.server.admin();
    {
      await using connection = await connect(admin);
      await connection.query(`create database ${DATABASE} template template0`);
    }
    const connection = await connect({ ...admin, database: DATABASE });
    await installGroupSchema(connection, { groupUuid, node });
    return { node, test, connection };
  } catch (error) {
    await test[Symbol.asyncDispose]();
    throw error;
  }
}

export async function testEdge(
  from: TestMember,
  to: TestMember,
  { copyData, slot = `s_${to.node}` }: { readonly copyData: boolean; readonly slot?: string },
): Promise<void> {
  const { host, port, user, password = '' } = from.test.server.admin();
  const conninfo = `host=${host} port=${port} user=${user} password=${password} dbname=${DATABASE} application_name=${slot}`;
  await to.connection.query(
    `create subscription varve_${from.node}_${DATABASE} connection ${quoteLiteral(conninfo)} publication varve
     with (copy_data = ${copyData}, origin = none, run_as_owner = true, streaming = on, slot_name = ${slot})`,
  );
}

async function lastErrors({ folder }: TestServer): Promise<string> {
  const log = await readFile(join(folder, 'postgres.log'), 'utf8');
  return log.split('\n').slice(-20).join('\n');
}
