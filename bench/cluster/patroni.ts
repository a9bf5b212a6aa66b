import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, chownSync, closeSync, mkdirSync, openSync } from 'node:fs';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chooseFreePorts } from '../../src/node/ports.ts';
import type { Endpoint } from '../../src/postgres/connection.ts';
import { resolveRunAs, type RunAs } from '../../src/postgres/run-as.ts';
import { discard } from './attic.ts';
import { killProcessGroup, signal, type Contender } from './contender.ts';
import { lastLines } from './last-lines.ts';
import { postmasterOf } from '../../test/group-processes.ts';

/** Patroni of Debian 12 with its PostgreSQL 15, three nodes on this machine. */
export const PATRONI_PROGRAM = '/usr/bin/patroni';
const POSTGRES_BIN = '/usr/lib/postgresql/15/bin';
const PASSWORD = 'bench';
const SIZE = 3;

export interface PatroniTimes {
  readonly ttlS: number;
  readonly loopWaitS: number;
  readonly retryTimeoutS: number;
}

export interface PatroniNode {
  readonly name: string;
  readonly pgPort: number;
  readonly restPort: number;
  readonly dataDir: string;
  process: ChildProcess | undefined;
}

interface ClusterMember {
  readonly name: string;
  readonly role: string;
  readonly state: string;
  readonly port: number;
}

export class PatroniCluster implements Contender<PatroniNode> {
  /** Those that form the cluster. */
  readonly nodes: readonly PatroniNode[];
  readonly joiners: readonly PatroniNode[];
  readonly #folder: string;
  readonly #runAs: RunAs | undefined;

  private constructor(folder: string, nodes: readonly PatroniNode[], runAs: RunAs | undefined) {
    this.#folder = folder;
    this.nodes = nodes.slice(0, SIZE);
    this.joiners = nodes.slice(SIZE);
    this.#runAs = runAs;
  }

  /** Nothing runs yet: `start` begins the clock. `joiners`: beyond the three that form the cluster. */
  static async prepare(
    etcdPort: number,
    scope: string,
    { joiners = 0, ...times }: PatroniTimes & { readonly joiners?: number },
  ): Promise<PatroniCluster> {
    const folder = await mkdtemp(join(tmpdir(), 'varve-bench-patroni-'));
    const runAs = await resolveRunAs();
    chmodSync(folder, 0o711);
    const ports = await chooseFreePorts((SIZE + joiners) * 2, []);
    const nodes = Array.from({ length: SIZE + joiners }, (_, index) => ({
      name: `p${index + 1}`,
      pgPort: ports[index * 2] ?? 0,
      restPort: ports[index * 2 + 1] ?? 0,
      dataDir: join(folder, `p${index + 1}`, 'data'),
      process: undefined,
    }));
    const cluster = new PatroniCluster(folder, nodes, runAs);
    for (const node of nodes) {
      const own = join(folder, node.name);
      mkdirSync(own, { mode: 0o700 });
      const joins = cluster.joiners.includes(node);
      await writeFile(
        join(own, 'patroni.json'),
        JSON.stringify(config(node, { scope, etcdPort, times, joins })),
      );
      if (runAs) for (const path of [own, join(own, 'patroni.json')]) chownSync(path, runAs.uid, runAs.gid);
    }
    return cluster;
  }

  start(node: PatroniNode): void {
    const log = openSync(join(this.#folder, `${node.name}.log`), 'a');
    const own = join(this.#folder, node.name);
    node.process = spawn(PATRONI_PROGRAM, [join(own, 'patroni.json')], {
      stdio: ['ignore', log, log],
      cwd: own,
      detached: true,
      ...(this.#runAs ? { uid: this.#runAs.uid, gid: this.#runAs.gid } : {}),
    });
    closeSync(log);
  }

  /** One node answers for all. */
  async members(): Promise<readonly ClusterMember[]> {
    for (const { restPort } of this.nodes) {
      const answer = await fetch(`http://127.0.0.1:${restPort}/cluster`, {
        signal: AbortSignal.timeout(1000),
      })
        .then(async (response) => (await response.json()) as { members: ClusterMember[] })
        .catch(() => undefined);
      if (answer) return answer.members;
    }
    return [];
  }

  async isWhole(): Promise<boolean> {
    const members = await this.members();
    const following = members.filter(isFollowing);
    return members.some(({ role }) => role === 'leader') && following.length === this.nodes.length - 1;
  }

  /** Whether it has come up as a replica. */
  async follows({ name }: PatroniNode): Promise<boolean> {
    const members = await this.members();
    return members.some((member) => member.name === name && isFollowing(member));
  }

  async isSettled(): Promise<boolean> {
    const members = await this.members();
    return members.length >= this.nodes.length && members.some(({ role }) => role === 'sync_standby');
  }

  async primary(): Promise<PatroniNode | undefined> {
    const leader = (await this.members()).find(({ role, state }) => role === 'leader' && state === 'running');
    return this.nodes.find(({ name }) => name === leader?.name);
  }

  endpoint(node: PatroniNode, database = 'postgres'): Endpoint {
    return { host: '127.0.0.1', port: node.pgPort, database, user: 'postgres', password: PASSWORD };
  }

  async processes({ process, dataDir }: PatroniNode): Promise<readonly number[]> {
    return [process?.pid, await postmasterOf(join(dataDir, 'postmaster.pid'))].filter(
      (pid) => pid !== undefined,
    );
  }

  /** Patroni, what it runs at the moment (initdb, pg_basebackup) and its PostgreSQL. */
  async kill(node: PatroniNode): Promise<void> {
    killProcessGroup(node.process?.pid);
    const pid = await postmasterOf(join(node.dataDir, 'postmaster.pid'));
    // Its children end with it.
    if (pid !== undefined) signal(pid);
  }

  complaints(): Promise<string> {
    return lastLines(this.nodes.map(({ name }) => join(this.#folder, `${name}.log`)));
  }

  async switchover(): Promise<void> {
    const from = await this.primary();
    const response = await fetch(`http://127.0.0.1:${from?.restPort ?? 0}/switchover`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ leader: from?.name }),
    });
    if (!response.ok) throw new Error(`switch-over was refused: ${await response.text()}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.nodes, ...this.joiners].map((node) => this.kill(node)));
    await new Promise((resolve) => setTimeout(resolve, 300));
    await discard(this.#folder);
  }
}

function isFollowing({ role, state }: ClusterMember): boolean {
  return role !== 'leader' && (state === 'streaming' || state === 'running');
}

function config(
  node: PatroniNode,
  { scope, etcdPort, times, joins }: { scope: string; etcdPort: number; times: PatroniTimes; joins: boolean },
): object {
  return {
    scope,
    name: node.name,
    restapi: { listen: `127.0.0.1:${node.restPort}`, connect_address: `127.0.0.1:${node.restPort}` },
    etcd3: { host: `127.0.0.1:${etcdPort}` },
    bootstrap: {
      dcs: {
        ttl: times.ttlS,
        loop_wait: times.loopWaitS,
        retry_timeout: times.retryTimeoutS,
        synchronous_mode: true,
        postgresql: { use_pg_rewind: true, parameters: { wal_log_hints: 'on' } },
      },
      initdb: [{ encoding: 'UTF8' }],
      pg_hba: [
        'host replication replicator 127.0.0.1/32 scram-sha-256',
        'host all all 127.0.0.1/32 scram-sha-256',
      ],
    },
    postgresql: {
      listen: `127.0.0.1:${node.pgPort}`,
      connect_address: `127.0.0.1:${node.pgPort}`,
      data_dir: node.dataDir,
      pgpass: join(node.dataDir, '..', 'pgpass'),
      bin_dir: POSTGRES_BIN,
      // A copy begins with a checkpoint, which PostgreSQL spreads over minutes under load unless it is told otherwise.
      ...(joins ? { basebackup: [{ checkpoint: 'fast' }] } : {}),
      authentication: {
        superuser: { username: 'postgres', password: PASSWORD },
        replication: { username: 'replicator', password: PASSWORD },
        rewind: { username: 'rewinder', password: PASSWORD },
      },
      parameters: { unix_socket_directories: '', password_encryption: 'scram-sha-256', max_connections: 100 },
    },
  };
}
