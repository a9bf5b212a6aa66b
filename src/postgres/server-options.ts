import type { FindBinariesOptions } from './binaries.ts';
import type { InitDatabaseOptions } from './init-database.ts';

export type ServerSettings = Readonly<Record<string, string>>;

/** How a server of our own is made and run. Everything but `folder` and `port` may be left out. */
export interface ServerOptions extends Partial<
  Pick<InitDatabaseOptions, 'encoding' | 'locale' | 'localeProvider'>
> {
  /** Holds the data folder and what belongs to it; made when missing. See `ServerFolder`. */
  readonly folder: string;
  /** 0: the one that it had before if that is still free, else one that is free. */
  readonly port: number;
  /** Besides 127.0.0.1, on which it always listens. */
  readonly listenAddresses?: readonly string[] | undefined;
  readonly binaries?: Partial<FindBinariesOptions> | undefined;
  /** User that the server becomes when we are root: else `postgres`, else `nobody`. */
  readonly runAs?: string | undefined;
  /** Name of the superuser: `postgres`. */
  readonly superuser?: string | undefined;
  /** Server settings; they win over ours. What not every version knows depends on the major. */
  readonly settings?: ServerSettings | ((major: number) => ServerSettings) | undefined;
  /** The lines of pg_hba.conf, after one that lets the superuser in from 127.0.0.1; see `DEFAULT_HBA`. */
  readonly hba?: readonly string[] | undefined;
  /**
   * Over its unix socket, which nobody else reaches, the server lets this process and its own sessions in as any
   * role, without a password. PostgreSQL 15 cannot express it and does not.
   */
  readonly socketPeers?: boolean | undefined;
  /** Files that the server can read; a key not open to others. */
  readonly tls?:
    | { readonly certFile: string; readonly keyFile: string; readonly caFile?: string | undefined }
    | undefined;
  /**
   * Folders that have `extension/*.control` and the scripts. Before PostgreSQL 18 they are without effect. One
   * that the server cannot read is copied into its own folder at each start.
   */
  readonly extensionFolders?: readonly string[] | undefined;
  /** False: neither initdb nor the server syncs, which only a crash of the machine shows; for tests. */
  readonly durable?: boolean | undefined;
  /**
   * For copies of programs that the server's user cannot reach where they are, and for data folders to copy:
   * `defaultCacheFolder`.
   */
  readonly cacheFolder?: string | undefined;
  /** initdb, and the start up to the first login, each: 120,000. A crash recovery has to fit in. */
  readonly startTimeoutMs?: number | undefined;
  /** Until the fast stop is followed by an immediate one: 30,000. */
  readonly stopTimeoutMs?: number | undefined;
}
