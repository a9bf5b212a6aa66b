import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { chmod, link, mkdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock, type Clock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import { syncFolder, writeFileAtomic } from './atomic-file.ts';
import { makePassable, type RunAs } from './run-as.ts';
import { makeCertificate, staleBecause, type CertificateRequest, type KeyPair } from './x509.ts';

const DAY_MS = 86_400_000;
const CA_VALIDITY_MS = 7300 * DAY_MS;
const DEFAULT_VALIDITY_MS = 730 * DAY_MS;
/** Against clocks that differ. */
const BACKDATE_MS = 3_600_000;

export interface CertificateAuthorityOptions {
  /** Who gets the keys of servers and roles: the user that PostgreSQL runs as. The authority's stay ours. */
  readonly owner?: RunAs | undefined;
  /** Of the certificates it signs, in milliseconds: two years. */
  readonly validityMs?: number | undefined;
}

export interface IssuedFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** False when the ones that were there are still good. */
  readonly issued: boolean;
}

/**
 * A certificate authority in a folder:
 *
 *     ca.pem            its certificate and key, 0600
 *     ca.crt            its certificate, for `ssl_ca_file` and `sslrootcert`
 *     server.crt .key, server-<node>.crt .key
 *     <md5 of role>.crt .key   (TimescaleDB 2.13's names)
 *
 * ECDSA P-256. Certificates are renewed when a third of their time is left, at the next `issue…`.
 */
export class CertificateAuthority {
  readonly folder: string;
  readonly caFile: string;
  readonly caPem: string;
  readonly #clock: Clock;
  readonly #pair: KeyPair;
  readonly #options: CertificateAuthorityOptions;
  #tail: Promise<unknown> = Promise.resolve();

  private constructor(folder: string, pair: KeyPair, clock: Clock, options: CertificateAuthorityOptions) {
    this.folder = folder;
    this.caFile = join(folder, 'ca.crt');
    this.caPem = pair.certPem;
    this.#pair = pair;
    this.#clock = clock;
    this.#options = options;
  }

  /**
   * The authority of this folder, made on the first use; of several first users at once one makes it.
   * @throws CERTIFICATE_INVALID when its file is damaged or its time is over
   */
  static async open(
    folder: string,
    options: CertificateAuthorityOptions = {},
    deps: { readonly clock: Clock } = { clock: systemClock },
  ): Promise<CertificateAuthority> {
    if (options.owner) await makePassable(folder);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    if (options.owner) await chmod(folder, ((await stat(folder)).mode & 0o777) | 0o711);
    const path = join(folder, 'ca.pem');
    const pair = (await readAuthority(path)) ?? (await makeAuthority(path, deps.clock.nowMs()));
    const { validTo } = parseAuthority(path, pair);
    if (Date.parse(validTo) < deps.clock.nowMs()) {
      throw new VarveError('CERTIFICATE_INVALID', `the certificate authority ${path} ended on ${validTo}`, {
        hint: 'Move the file away; the next start makes a new one, which must be given to all who trust it.',
      });
    }
    const authority = new CertificateAuthority(folder, pair, deps.clock, options);
    // Derived, so a crash between the two files is repaired here.
    const present = await readFile(authority.caFile, 'utf8').catch(() => '');
    if (present !== pair.certPem) await writeFileAtomic(authority.caFile, pair.certPem, { mode: 0o644 });
    return authority;
  }

  /**
   * `server.crt` and `server.key`, good for these host names and IP addresses; the first is the subject. Servers that
   * need different ones have files of different names.
   */
  issueServer(names: readonly [string, ...string[]], file = 'server'): Promise<IssuedFiles> {
    return this.#issue(file, { commonName: names[0], purpose: 'server', names });
  }

  /** Certificate and key with which `role` logs in. */
  issueClient(role: string): Promise<IssuedFiles> {
    return this.#issue(certificateName(role), { commonName: role, purpose: 'client' });
  }

  #issue(
    name: string,
    request: Pick<CertificateRequest, 'commonName' | 'purpose' | 'names'>,
  ): Promise<IssuedFiles> {
    const result = this.#tail.then(() => this.#issueNow(name, request));
    this.#tail = result.catch(() => {});
    return result;
  }

  async #issueNow(
    name: string,
    wanted: Pick<CertificateRequest, 'commonName' | 'purpose' | 'names'>,
  ): Promise<IssuedFiles> {
    const certFile = join(this.folder, `${name}.crt`);
    const keyFile = join(this.folder, `${name}.key`);
    const nowMs = this.#clock.nowMs();
    const request = {
      ...wanted,
      notBefore: new Date(nowMs - BACKDATE_MS),
      notAfter: new Date(nowMs + (this.#options.validityMs ?? DEFAULT_VALIDITY_MS)),
    };
    const present = {
      certPem: await readFile(certFile, 'utf8').catch(() => ''),
      keyPem: await readFile(keyFile, 'utf8').catch(() => ''),
    };
    if (staleBecause(present, request, this.caPem, nowMs) === undefined) {
      return { certFile, keyFile, issued: false };
    }
    const made = await makeCertificate(request, this.#pair);
    const { owner } = this.#options;
    // A crash in between leaves a pair that does not match, which the next call replaces.
    await writeFileAtomic(keyFile, made.keyPem, { mode: 0o600, owner });
    await writeFileAtomic(certFile, made.certPem, { mode: 0o644, owner });
    return { certFile, keyFile, issued: true };
  }
}

/** The name, without suffix, of a role's certificate and key files, as TimescaleDB 2.13 has it. */
export function certificateName(role: string): string {
  return createHash('md5').update(role).digest('hex');
}

async function readAuthority(path: string): Promise<KeyPair | undefined> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) return undefined;
  const end = '-----END CERTIFICATE-----\n';
  const at = text.indexOf(end) + end.length;
  return { certPem: text.slice(0, at), keyPem: text.slice(at) };
}

/** Certificate and key are one file, put in place by a link, which fails when another was first. */
async function makeAuthority(path: string, nowMs: number): Promise<KeyPair> {
  const made = await makeCertificate({
    commonName: 'Varve certificate authority',
    purpose: 'ca',
    notBefore: new Date(nowMs - BACKDATE_MS),
    notAfter: new Date(nowMs + CA_VALIDITY_MS),
  });
  const temporary = `${path}.${randomBytes(4).toString('hex')}`;
  await writeFileAtomic(temporary, made.certPem + made.keyPem, { mode: 0o600 });
  try {
    await link(temporary, path);
    await syncFolder(join(path, '..'));
    return made;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return (await readAuthority(path)) ?? made;
  } finally {
    await rm(temporary, { force: true });
  }
}

function parseAuthority(path: string, pair: KeyPair): X509Certificate {
  try {
    return new X509Certificate(pair.certPem);
  } catch (error) {
    throw new VarveError('CERTIFICATE_INVALID', `the certificate authority ${path} is damaged`, {
      hint: 'Restore the file, or move it away: the next start makes a new one.',
      cause: error,
    });
  }
}
