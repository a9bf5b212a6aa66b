import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { writeFileAtomic } from '../../postgres/atomic-file.ts';
import { CONFIG_MARK, haproxyConfig, WRITE_BACKEND, type HaproxyView } from './haproxy-config.ts';
import { askHaproxy } from './haproxy-socket.ts';
import { ProxyProcess, type ProxyCommand, type ProxyLog } from './proxy-process.ts';

export interface HaproxyDeps {
  readonly clock: Clock;
  readonly log: ProxyLog;
}

export interface HaproxyOptions {
  readonly program: string;
  /** Exists; for its configuration, output and process id. */
  readonly folder: string;
  /** Short enough for a socket. */
  readonly socketPath: string;
}

export type HaproxyWanted = Omit<HaproxyView, 'socketPath'>;

const RELOAD_TIMEOUT_MS = 5000;
const POLL_MS = 20;

/**
 * This node's HAProxy: brought to what is wanted by checking the new configuration, cutting the sessions of a
 * write master that is none any more, then reloading without closing the ports.
 */
export class Haproxy implements AsyncDisposable {
  readonly #deps: HaproxyDeps;
  readonly #options: HaproxyOptions;
  readonly #process: ProxyProcess;
  #mark: string | undefined;
  #master: string | undefined;

  constructor(deps: HaproxyDeps, options: HaproxyOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#process = new ProxyProcess(deps, haproxyCommand(options));
  }

  get process(): Pick<ProxyProcess, 'pid' | 'restartCount' | 'trouble'> {
    return this.#process;
  }

  /**
   * Resolves when the running HAProxy works by `wanted`. Equal wishes cost nothing.
   * @throws PROXY_CONFIG when HAProxy refuses the configuration: it goes on with the one before
   * @throws PROXY_UNREACHABLE when it does not come up with it; it is started again and again meanwhile
   */
  async apply(wanted: HaproxyWanted): Promise<void> {
    const { folder, socketPath } = this.#options;
    const { text, mark } = haproxyConfig({ ...wanted, socketPath });
    if (mark === this.#mark) return;
    const file = configFile(folder);
    await writeFileAtomic(`${file}.new`, text);
    await this.#check(`${file}.new`);
    await writeFileAtomic(file, text);
    if (this.#process.isStarted) {
      await this.#leaveMaster(wanted.master?.node);
      this.#process.signal('SIGUSR2');
    } else {
      await this.#process.start();
    }
    await this.#runs(mark);
    this.#mark = mark;
    this.#master = wanted.master?.node;
    this.#deps.log.info({ master: wanted.master?.node ?? null }, 'HAProxy works by a new configuration');
  }

  async #check(file: string): Promise<void> {
    try {
      await promisify(execFile)(this.#options.program, ['-c', '-q', '-f', file]);
    } catch (error) {
      throw new VarveError('PROXY_CONFIG', 'HAProxy refuses the configuration that was made for it', {
        detail: messageOf(error),
        hint: `The refused file is ${file}; HAProxy goes on with the one before.`,
      });
    }
  }

  /**
   * Nothing more goes to a master that is none any more: a reload alone would leave its sessions to the worker
   * that is replaced.
   */
  async #leaveMaster(next: string | undefined): Promise<void> {
    const former = this.#master;
    if (former === undefined || former === next) return;
    const server = `${WRITE_BACKEND}/${former}`;
    try {
      await askHaproxy(this.#options.socketPath, `set server ${server} state maint`);
      await askHaproxy(this.#options.socketPath, `shutdown sessions server ${server}`);
    } catch (error) {
      this.#deps.log.warn({ error: messageOf(error) }, `sessions of ${former} could not be ended`);
    }
  }

  async #runs(mark: string): Promise<void> {
    const { clock } = this.#deps;
    const untilMs = clock.monotonicMs() + RELOAD_TIMEOUT_MS;
    for (;;) {
      const answer = await askHaproxy(this.#options.socketPath, `show env ${CONFIG_MARK}`).catch(
        (error: unknown) => error,
      );
      if (answer === `${CONFIG_MARK}=${mark}`) return;
      if (clock.monotonicMs() > untilMs) {
        throw new VarveError(
          'PROXY_UNREACHABLE',
          `HAProxy does not work by its new configuration after ${RELOAD_TIMEOUT_MS} ms`,
          {
            detail: answer instanceof Error ? messageOf(answer) : String(answer),
            hint: `Its output is ${outputFile(this.#options.folder)}.`,
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

/** How HAProxy is run in `folder`: a master process that reloads, and workers that serve. */
export function haproxyCommand({
  program,
  folder,
}: Pick<HaproxyOptions, 'program' | 'folder'>): ProxyCommand {
  const pidFile = join(folder, 'haproxy.pid');
  return {
    name: 'haproxy',
    program,
    args: ['-W', '-db', '-p', pidFile, '-f', configFile(folder)],
    configFile: configFile(folder),
    pidFile,
    outputFile: outputFile(folder),
    runAs: undefined,
  };
}

function configFile(folder: string): string {
  return join(folder, 'haproxy.cfg');
}

function outputFile(folder: string): string {
  return join(folder, 'haproxy.log');
}
