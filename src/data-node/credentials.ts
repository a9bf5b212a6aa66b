import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import type { Endpoint, TlsOptions } from '../postgres/connection.ts';
import { findPassword } from '../postgres/passfile.ts';
import type { Target } from './target.ts';

/**
 * How roles of the access node log in to data nodes: by certificate, by password file, or by the password that
 * was given to `add_data_node`. The same files serve the daemon and, through user mappings, the sessions of
 * the access node's server, which see them under a path of their own.
 */
export interface CredentialOptions {
  /** Folder of `<md5 of role>.crt` and `.key`, TimescaleDB's naming; `undefined`: no certificates. */
  readonly certificatesFolder?: string | undefined;
  /** Makes the certificate of a role that has none yet. */
  readonly issue?: ((role: string) => Promise<void>) | undefined;
  /** Root certificates that a data node's certificate is checked against, PEM file. */
  readonly caFile?: string | undefined;
  /** libpq password file. */
  readonly passfile?: string | undefined;
  /** The same places as the access node's server sees them. Default: the same paths. */
  readonly serverPaths?:
    | { readonly certificatesFolder?: string; readonly caFile?: string; readonly passfile?: string }
    | undefined;
  /** `auto`: verify-full where there is a CA and the host is not loopback, else prefer. */
  readonly tls?: TlsOptions['mode'] | 'auto' | undefined;
}

export class Credentials {
  readonly #options: CredentialOptions;

  constructor(options: CredentialOptions) {
    this.#options = options;
  }

  /** Where and as whom to connect. A password given here goes before one of the password file. */
  async endpoint(target: Target, role: string, password?: string | null): Promise<Endpoint> {
    const { passfile, caFile } = this.#options;
    const found =
      password ?? (passfile ? await findPassword(passfile, { ...target, user: role }) : undefined);
    const certificate = await this.#certificate(role);
    return {
      ...target,
      user: role,
      ...(found === undefined ? {} : { password: found }),
      tls: {
        mode: this.#tlsMode(target.host),
        ...(caFile ? { caPem: await readFile(caFile, 'utf8') } : {}),
        ...certificate,
      },
    };
  }

  /** Options of a foreign server: how its sessions check whom they talk to. */
  serverOptions(host: string): Record<string, string> {
    const { passfile, caFile, serverPaths } = this.#options;
    return {
      sslmode: this.#tlsMode(host),
      ...(caFile ? { sslrootcert: serverPaths?.caFile ?? caFile } : {}),
      ...(passfile ? { passfile: serverPaths?.passfile ?? passfile } : {}),
    };
  }

  /** Options of a user mapping: how sessions of the access node's server log in as `role`. */
  async userOptions(role: string, password?: string | null): Promise<Record<string, string>> {
    const { certificatesFolder, serverPaths } = this.#options;
    const folder = serverPaths?.certificatesFolder ?? certificatesFolder;
    const certified = folder !== undefined && (await this.#certificate(role)) !== undefined;
    return {
      user: role,
      ...(certified
        ? {
            sslcert: join(folder, certificateName(role, 'crt')),
            sslkey: join(folder, certificateName(role, 'key')),
          }
        : {}),
      // A role without a password of its own comes in by certificate or password file, which needs this switch.
      ...(password ? { password } : { password_required: 'false' }),
    };
  }

  #tlsMode(host: string): TlsOptions['mode'] {
    const { tls = 'auto', caFile } = this.#options;
    if (tls !== 'auto') return tls;
    if (host.startsWith('/')) return 'disable';
    return caFile && !isLoopback(host) ? 'verify-full' : 'prefer';
  }

  async #certificate(role: string): Promise<{ certPem: string; keyPem: string } | undefined> {
    const { certificatesFolder: folder, issue } = this.#options;
    if (folder === undefined) return undefined;
    const read = async (): Promise<{ certPem: string; keyPem: string }> => ({
      certPem: await readFile(join(folder, certificateName(role, 'crt')), 'utf8'),
      keyPem: await readFile(join(folder, certificateName(role, 'key')), 'utf8'),
    });
    try {
      return await read();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      if (!issue) return undefined;
    }
    await issue(role);
    return read();
  }
}

function certificateName(role: string, suffix: 'crt' | 'key'): string {
  return `${createHash('md5').update(role).digest('hex')}.${suffix}`;
}

function isLoopback(host: string): boolean {
  if (isIP(host) === 4) return host.startsWith('127.');
  return host === '::1' || host === 'localhost';
}
