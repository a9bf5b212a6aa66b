import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { GroupStatus } from '../src/node/group-control.ts';
import type { Endpoint } from '../src/postgres/connection.ts';
import { TEMP_PREFIX } from './leak-check.ts';
import { NetworkSpaces } from './network-spaces.ts';
import type { RemoteCommands } from './remote-client.ts';

const VARVE = fileURLToPath(new URL('../bin/varve.js', import.meta.url));
const CLIENT = fileURLToPath(new URL('remote-client.ts', import.meta.url));
const PASSWORD = 'password-of-a-group-of-machines';
const [PG_PORT, HTTP_PORT, RPC_PORT, ETCD_PORT, ETCD_PEER_PORT] = [5432, 8080, 8081, 2379, 2380];
/** Where etcd's members are. */
const STORES = ['s1', 's2', 's3'];
const NODES = ['m1', 'm2', 'm3'];
const COMPLAINTS = 8;

interface EtcdStatus {
  readonly leader?: string;
  readonly header?: { readonly member_id: string };
}

type Answer<K extends keyof RemoteCommands> = Awaited<ReturnType<RemoteCommands[K]>>;

/** Clients that are in the hub, or beside a node. */
class RemoteClient implements AsyncDisposable {
  readonly #process: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor([program, args]: readonly [string, string[]]) {
    this.#process = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const { stdout } = this.#process;
    if (!stdout) throw new Error('no output');
    this.#answers = createInterface({ input: stdout })[Symbol.asyncIterator]();
  }

  /** One after the other. */
  async ask<K extends keyof RemoteCommands>(
    name: K,
    ...args: Parameters<RemoteCommands[K]>
  ): Promise<Answer<K>> {
    this.#process.stdin?.write(`${JSON.stringify([name, ...args])}\n`);
    const { value } = await this.#answers.next();
    const answer = JSON.parse(String(value)) as { value: Answer<K>; error?: string };
    if (answer.error !== undefined) throw new Error(`${name}: ${answer.error}`);
    return answer.value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await gone;
  }
}

/** Three access nodes and the three members of an etcd, on a machine each, whose links can be cut. */
export class NetworkedGroup implements AsyncDisposable {
  readonly spaces: NetworkSpaces;
  readonly clients: RemoteClient;
  readonly #folder: string;
  readonly #processes: ChildProcess[] = [];

  private constructor(spaces: NetworkSpaces, folder: string) {
    this.spaces = spaces;
    this.#folder = folder;
    this.clients = this.clientsIn('hub');
  }

  static async start(etcd: string, leaseTtlS: number): Promise<NetworkedGroup> {
    const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}networked-`));
    await chmod(folder, 0o755);
    const group = new NetworkedGroup(new NetworkSpaces([...STORES, ...NODES]), folder);
    try {
      for (const store of STORES) group.#start(store, [etcd, ...group.#etcdFlags(store)]);
      const url = STORES.map((store) => group.#urlOf(store, ETCD_PORT)).join(',');
      for (const name of ['group.password', 'password']) {
        await writeFile(join(folder, name), PASSWORD, { mode: 0o600 });
      }
      for (const node of NODES) {
        const config = await group.#configure(node, url, leaseTtlS);
        group.#start(node, [process.execPath, VARVE, 'node', '--config', config]);
      }
      return group;
    } catch (error) {
      await group[Symbol.asyncDispose]();
      throw error;
    }
  }

  get nodes(): readonly string[] {
    return NODES;
  }

  get stores(): readonly string[] {
    return STORES;
  }

  /** Of etcd's members the leader, by the word of any that has one. */
  async leadingStore(): Promise<string> {
    for (;;) {
      for (const store of STORES) {
        const status = await this.#curl(
          store,
          `${this.#urlOf(store, ETCD_PORT)}/v3/maintenance/status`,
          '{}',
        );
        const { leader, header } = JSON.parse(status ?? '{}') as EtcdStatus;
        if (leader !== undefined && leader === header?.member_id) return store;
      }
    }
  }

  /** From anywhere in the network. */
  endpoint(node: string, host = this.spaces.addressOf(node)): Endpoint {
    return { host, port: PG_PORT, database: 'varve', user: 'postgres', password: PASSWORD };
  }

  clientsIn(name: string): RemoteClient {
    return new RemoteClient(this.spaces.inside(name, [process.execPath, '--import', 'tsx', CLIENT]));
  }

  /** As that node sees it; undefined while it says nothing. */
  async statusBy(node: string): Promise<GroupStatus | undefined> {
    const text = await this.#curl(node, `http://127.0.0.1:${HTTP_PORT}/api/cluster`);
    if (text === undefined) return undefined;
    const answer = JSON.parse(text) as GroupStatus & { code?: string };
    return answer.code === undefined ? answer : undefined;
  }

  /** Asked for; how it goes is in the status. */
  async reinit(node: string): Promise<void> {
    const url = `http://127.0.0.1:${HTTP_PORT}/api/cluster/requests`;
    await this.#curl(node, url, JSON.stringify({ kind: 'reinit', node }));
  }

  /** What the nodes wrote last, for a test that does not get on. */
  async complaints(): Promise<string> {
    const parts = await Promise.all(
      NODES.map(async (node) => {
        const text = await readFile(this.#log(node), 'utf8').catch(() => '');
        return [`${node}:`, ...text.trim().split('\n').slice(-COMPLAINTS).map(withoutStack)].join('\n  ');
      }),
    );
    const { requests, members } = (await this.statusBy(NODES[0] ?? '')) ?? {};
    return [...parts, JSON.stringify({ requests, members })].join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.clients[Symbol.asyncDispose]();
    this.spaces[Symbol.dispose]();
    for (const { pid = 0 } of this.#processes) {
      try {
        process.kill(-pid, 'SIGKILL');
      } catch {
        // Gone with its namespace.
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  }

  /** Asked on that machine; undefined when there is no answer. */
  async #curl(name: string, url: string, body?: string): Promise<string | undefined> {
    const json = body === undefined ? [] : ['--header', 'content-type: application/json', '--data', body];
    const command = ['curl', '--silent', '--max-time', '10', ...json, url];
    const [program, args] = this.spaces.inside(name, command);
    return promisify(execFile)(program, args).then(
      ({ stdout }) => stdout,
      () => undefined,
    );
  }

  #urlOf(name: string, port: number): string {
    return `http://${this.spaces.addressOf(name)}:${port}`;
  }

  #etcdFlags(store: string): string[] {
    const [clients, peers] = [this.#urlOf(store, ETCD_PORT), this.#urlOf(store, ETCD_PEER_PORT)];
    const all = STORES.map((one) => `${one}=${this.#urlOf(one, ETCD_PEER_PORT)}`).join(',');
    return [
      `--name=${store}`,
      `--data-dir=${join(this.#folder, `etcd-${store}`)}`,
      `--listen-client-urls=${clients}`,
      `--advertise-client-urls=${clients}`,
      `--listen-peer-urls=${peers}`,
      `--initial-advertise-peer-urls=${peers}`,
      `--initial-cluster=${all}`,
      '--unsafe-no-fsync',
      '--logger=zap',
      '--log-level=error',
    ];
  }

  async #configure(node: string, coordinator: string, leaseTtlS: number): Promise<string> {
    const folder = join(this.#folder, node);
    await mkdir(folder);
    const config = {
      name: node,
      kind: 'access',
      folder,
      postgres: 'embedded',
      pgPort: PG_PORT,
      httpPort: HTTP_PORT,
      rpcPort: RPC_PORT,
      passwordFile: join(this.#folder, 'password'),
      coordinatorKind: 'etcd',
      coordinator,
      cluster: 'main',
      clusterSize: NODES.length,
      host: this.spaces.addressOf(node),
      groupPasswordFile: join(this.#folder, 'group.password'),
      leaseTtl: `${leaseTtlS}s`,
    };
    const file = join(folder, 'node.json');
    await writeFile(file, JSON.stringify(config));
    return file;
  }

  #start(name: string, command: readonly string[]): void {
    const log = openSync(this.#log(name), 'a');
    const [program, args] = this.spaces.inside(name, command);
    this.#processes.push(spawn(program, args, { stdio: ['ignore', log, log], detached: true }));
    closeSync(log);
  }

  #log(name: string): string {
    return join(this.#folder, `${name}.log`);
  }
}

/** A line of the log, which has the causes of an error and where it came from at length. */
function withoutStack(line: string): string {
  return line.replaceAll(/"stack":"(?:[^"\\]|\\.)*",?/g, '');
}
