import { chown, mkdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import { writeFileAtomic } from '../../postgres/atomic-file.ts';
import type { RunAs } from '../../postgres/run-as.ts';
import { pgbouncerConfig, pgbouncerUsers, type PgbouncerView, type PooledRole } from './pgbouncer-config.ts';
import type { ServerCertificate } from './server-certificate.ts';
import { ProxyProcess, type ProxyCommand, type ProxyLog } from './proxy-process.ts';

export interface PgbouncerOptions {
  readonly program: string;
  /** Made when absent, for `runAs`, who has to be able to reach it. */
  readonly folder: string;
  /** PgBouncer refuses to run as root. */
  readonly runAs: RunAs | undefined;
}

export type PgbouncerWanted = Omit<PgbouncerView, 'usersFile' | 'pidFile' | 'logFile' | 'tls'> & {
  readonly roles: readonly PooledRole[];
  /** For clients that want TLS. */
  readonly tls: ServerCertificate | undefined;
};

const START_TIMEOUT_MS = 5000;
const POLL_MS = 20;

/** This node's PgBouncer, in front of its own PostgreSQL. */
export class Pgbouncer implements AsyncDisposable {
  readonly #deps: { readonly clock: Clock; readonly log: ProxyLog };
  readonly #options: PgbouncerOptions;
  readonly #process: ProxyProcess;
  #applied = '';

  constructor(deps: { readonly clock: Clock; readonly log: ProxyLog }, options: PgbouncerOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#process = new ProxyProcess(deps, pgbouncerCommand(options));
  }

  get process(): Pick<ProxyProcess, 'pid' | 'restartCount' | 'trouble'> {
    return this.#process;
  }

  /**
   * Writes both files and makes PgBouncer read them. Equal wishes cost nothing.
   * @throws PROXY_UNREACHABLE when it does not come up; it is started again and again meanwhile
   */
  async apply({ roles, tls, ...view }: PgbouncerWanted): Promise<void> {
    const { folder, runAs } = this.#options;
    const files = filesIn(folder);
    const tlsFiles = tls && { certFile: join(folder, 'server.crt'), keyFile: join(folder, 'server.key') };
    const config = pgbouncerConfig({ ...view, ...files, tls: tlsFiles });
    const users = pgbouncerUsers(roles);
    const all = JSON.stringify([config, users, tls]);
    if (this.#applied === all) return;
    await mkdir(folder, { recursive: true, mode: 0o700 });
    if (runAs) await chown(folder, runAs.uid, runAs.gid);
    await writeFileAtomic(files.usersFile, users, { owner: runAs });
    if (tls && tlsFiles) {
      await writeFileAtomic(tlsFiles.keyFile, tls.keyPem, { owner: runAs });
      await writeFileAtomic(tlsFiles.certFile, tls.certPem, { owner: runAs });
    }
    await writeFileAtomic(configFile(folder), config, { owner: runAs });
    if (this.#process.isStarted) this.#process.signal('SIGHUP');
    else await this.#process.start();
    await this.#listens(view);
    this.#applied = all;
    this.#deps.log.info(
      { databases: view.databases.length, roles: roles.length },
      'PgBouncer works by new files',
    );
  }

  async #listens({
    listenHost,
    listenPort,
  }: Pick<PgbouncerWanted, 'listenHost' | 'listenPort'>): Promise<void> {
    const { clock } = this.#deps;
    const untilMs = clock.monotonicMs() + START_TIMEOUT_MS;
    while (!(await accepts(listenHost, listenPort))) {
      if (clock.monotonicMs() > untilMs) {
        throw new VarveError(
          'PROXY_UNREACHABLE',
          `PgBouncer does not listen on port ${listenPort} after ${START_TIMEOUT_MS} ms`,
          {
            ...(this.#process.trouble === undefined ? {} : { detail: `It ${this.#process.trouble}.` }),
            hint: `Its output is ${filesIn(this.#options.folder).logFile}.`,
          },
        );
      }
      await clock.sleep(POLL_MS);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
  }
}

export function pgbouncerCommand({ program, folder, runAs }: PgbouncerOptions): ProxyCommand {
  return {
    name: 'pgbouncer',
    program,
    args: [configFile(folder)],
    configFile: configFile(folder),
    pidFile: filesIn(folder).pidFile,
    outputFile: join(folder, 'output.log'),
    runAs,
  };
}

function configFile(folder: string): string {
  return join(folder, 'pgbouncer.ini');
}

function filesIn(folder: string): Pick<PgbouncerView, 'usersFile' | 'pidFile' | 'logFile'> {
  return {
    usersFile: join(folder, 'users.txt'),
    pidFile: join(folder, 'pgbouncer.pid'),
    logFile: join(folder, 'pgbouncer.log'),
  };
}

async function accepts(host: string, port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect({ host, port }, () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
    socket.setTimeout(1000, () => {
      socket.destroy();
      resolve(false);
    });
  });
}
