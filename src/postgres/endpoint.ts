import { createHash } from 'node:crypto';
import { createSecureContext, type ConnectionOptions, type SecureContext } from 'node:tls';

/** Where and as whom to connect. */
export interface Endpoint {
  /** Name, IP address, or the absolute folder of a unix socket. */
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password?: string | undefined;
  /** Without it the connection is in the clear. Never used over a unix socket. */
  readonly tls?: TlsOptions | undefined;
}

/** As libpq's `sslmode`; certificates and key are PEM text, not paths. */
export interface TlsOptions {
  /**
   * `prefer`: encrypted when the server can, its certificate is not checked. `require`: encrypted always; the certificate is checked against
   * `caPem` when that is given, the host name is not. `verify-full`: certificate and host name are checked,
   * against the system's authorities when there is no `caPem`.
   */
  readonly mode: 'disable' | 'prefer' | 'require' | 'verify-full';
  readonly caPem?: string | undefined;
  readonly certPem?: string | undefined;
  readonly keyPem?: string | undefined;
}

/** `user@host:port/database`, for messages; never holds the password. */
export function describeEndpoint(endpoint: Endpoint): string {
  return `${endpoint.user}@${hostAndPort(endpoint)}/${endpoint.database}`;
}

export function hostAndPort({ host, port }: Endpoint): string {
  if (isSocketFolder(host)) return `${host}/.s.PGSQL.${port}`;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

export function isSocketFolder(host: string): boolean {
  return host.startsWith('/');
}

/** What node-postgres hands to `tls.connect`, or false for a connection in the clear. */
export function tlsSettings(endpoint: Endpoint): ConnectionOptions | false {
  const { tls } = endpoint;
  if (!tls || tls.mode === 'disable' || isSocketFolder(endpoint.host)) return false;
  const verify = tls.mode === 'verify-full';
  return {
    rejectUnauthorized: verify || (tls.mode === 'require' && tls.caPem !== undefined),
    ...(verify ? {} : { checkServerIdentity: () => undefined }),
    secureContext: contexts.of(tls),
  };
}

/** Parsed certificates and keys take about a megabyte and some milliseconds each; few are in use at a time. */
class SecureContexts {
  readonly #known = new Map<string, SecureContext>();

  of({ caPem, certPem, keyPem }: TlsOptions): SecureContext {
    const key = createHash('sha256')
      .update(JSON.stringify([caPem, certPem, keyPem]))
      .digest('base64');
    const context = this.#known.get(key) ?? createSecureContext({ ca: caPem, cert: certPem, key: keyPem });
    // The one that was used last stands last.
    this.#known.delete(key);
    this.#known.set(key, context);
    const [oldest] = this.#known.keys();
    if (this.#known.size > SECURE_CONTEXT_COUNT && oldest !== undefined) this.#known.delete(oldest);
    return context;
  }
}

const SECURE_CONTEXT_COUNT = 32;
const contexts = new SecureContexts();
