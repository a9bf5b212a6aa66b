import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GroupProcesses, type NodeProcess } from '../../test/group-processes.ts';
import { lostRows, makeLoadTable, WriteLoad } from '../../test/write-load.ts';
import { EtcdServers, findEtcd, skipWithoutEtcd } from '../coordination/etcd-process.suite.ts';

const LIMIT_MS = 60_000;

const etcd = findEtcd();
if (etcd === undefined) skipWithoutEtcd('a group of nodes whose coordinator is etcd');
else testGroupOn(etcd);

/** As separate machines would be: `varve node` with a configuration file each, and etcd. */
function testGroupOn(program: string): void {
  describe('three nodes with etcd', () => {
    let servers: EtcdServers;
    let group: GroupProcesses;
    let load: WriteLoad;

    beforeAll(async () => {
      servers = await EtcdServers.start(program, 1);
      group = await GroupProcesses.prepare({ etcdUrl: servers.urls[0] ?? '', cluster: 'main', leaseTtlS: 2 });
      for (const node of group.nodes) group.start(node);
    });

    afterAll(async () => {
      await load?.stop();
      await group?.[Symbol.asyncDispose]();
      await servers?.[Symbol.asyncDispose]();
    });

    async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
      await expect
        .poll(isSo, { timeout: LIMIT_MS, interval: 100 })
        .toBe(true)
        .catch(async () => {
          throw new Error(`waited in vain: ${what}\n${await group.complaints()}`);
        });
    }

    /** Who is write master, other than `former`. */
    async function master(former?: NodeProcess): Promise<NodeProcess> {
      let found: NodeProcess | undefined;
      await until('a write master', async () => {
        found = await group.primary();
        return found !== undefined && found !== former;
      });
      return found as NodeProcess;
    }

    async function roleOf(name: string): Promise<string | undefined> {
      return (await group.status())?.members.find(({ node }) => node === name)?.role;
    }

    /** Rows are taken again, by somebody. */
    async function moreRows(): Promise<void> {
      const before = load.acknowledgedIds.length;
      await until('more rows', () => Promise.resolve(load.acknowledgedIds.length > before + 20));
    }

    /** A commit that waited when its master died may be on its disk alone; then it is told to join anew. */
    async function comesBack(node: NodeProcess): Promise<void> {
      group.start(node);
      await until(`${node.name} is back`, async () => {
        const role = await roleOf(node.name);
        return role === 'following' || role === 'rejoin-needed';
      });
    }

    /** Without them there is no quorum when another dies. */
    async function allAreMembers(): Promise<void> {
      for (const node of group.nodes) {
        if ((await roleOf(node.name)) === 'rejoin-needed') await group.reinit(node);
      }
      await until('all are members', async () => {
        const roles = await Promise.all(group.nodes.map(({ name }) => roleOf(name)));
        return roles.every((role) => role === 'following' || role === 'write master');
      });
    }

    it('become one group', async () => {
      await until('all are whole', () => group.isWhole());
      await makeLoadTable(group.endpoint(await master()));
      load = new WriteLoad(group.nodes.map((node) => group.endpoint(node)));
      load.start();
      await moreRows();
    });

    it('go on when etcd is killed and comes back', async () => {
      await servers.kill(0);
      await new Promise((resolve) => setTimeout(resolve, 1000));
      await servers.start(0);
      await master();
      await moreRows();
    });

    it('when the write master’s machine dies another takes over, and no acknowledged row is lost', async () => {
      const former = await master();
      await group.kill(former);
      const now = await master(former);
      await moreRows();
      expect(await lostRows(group.endpoint(now), load.acknowledgedIds)).toBe(0);
      await comesBack(former);
    });

    it.skipIf(process.env['VARVE_SOAK'] !== '1')(
      'another takes over, too, when etcd is away at that moment, however long',
      async () => {
        for (const awayMs of [0, 1000, 3000, 10_000]) {
          await allAreMembers();
          const former = await master();
          await group.kill(former);
          await servers.kill(0);
          await new Promise((resolve) => setTimeout(resolve, awayMs));
          await servers.start(0);
          const now = await master(former);
          await moreRows();
          expect(await lostRows(group.endpoint(now), load.acknowledgedIds)).toBe(0);
          await comesBack(former);
        }
      },
      400_000,
    );
  });
}
