import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { ServerCertificate } from '../cluster/services/server-certificate.ts';
import { isLoopback } from '../core/loopback.ts';
import type { CredentialOptions } from '../data-node/credentials.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';
import { CertificateAuthority, certificateName } from '../postgres/certificates.ts';
import type { ServerFolder } from '../postgres/server-folder.ts';
import { staleBecause } from '../postgres/x509.ts';
import { done, todo, type Check } from '../run/step.ts';
import type { NodeOptions } from './node-options.ts';
import { SUPERUSER } from './system-folder.ts';

/** Names under which nodes on one machine reach each other. */
const LOCAL_NAMES = ['localhost', '127.0.0.1', '::1'] as const;

type CertificateOptions = Pick<NodeOptions, 'name' | 'kind' | 'caFolder' | 'tlsNames' | 'group'>;

interface PairFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

/**
 * The certificates of one node that runs its own PostgreSQL: issued by the system's authority, copied to where
 * the server and its user can read them. Every server shows one; an access node logs in to data nodes with one for
 * each role.
 */
export class NodeCertificates {
  readonly folder: string;
  readonly caFile: string;
  readonly #server: PairFiles;
  readonly #options: CertificateOptions;
  readonly #caFolder: string;

  /** Undefined where there is no authority. */
  static of(options: CertificateOptions, serverFolder: string): NodeCertificates | undefined {
    if (options.caFolder === undefined) return undefined;
    return new NodeCertificates(options, options.caFolder, join(serverFolder, 'certs'));
  }

  private constructor(options: CertificateOptions, caFolder: string, folder: string) {
    this.#options = options;
    this.#caFolder = caFolder;
    this.folder = folder;
    this.caFile = join(folder, 'ca.crt');
    this.#server = this.#pair('server');
  }

  /** For PostgreSQL. Only data nodes know their clients by certificates, and ask for them. */
  get server(): PairFiles & { readonly caFile?: string } {
    return this.#options.kind === 'data' ? { ...this.#server, caFile: this.caFile } : this.#server;
  }

  /** Looks, and changes nothing. */
  async check(nowMs: number): Promise<Check> {
    const ca = await readOr(join(this.#caFolder, 'ca.crt'));
    if (ca === '') return todo('there is no certificate yet');
    if (ca !== (await readOr(this.caFile))) return todo('the authority is another one');
    const wanted: (readonly [PairFiles, readonly string[]])[] = [[this.#server, this.#names([])]];
    if (this.#options.kind === 'access') wanted.push([this.#pair(certificateName(SUPERUSER)), []]);
    for (const [files, names] of wanted) {
      const pair = { certPem: await readOr(files.certFile), keyPem: await readOr(files.keyFile) };
      if (pair.certPem === '') return todo('there is no certificate yet');
      const why = staleBecause(pair, { names }, ca, nowMs);
      if (why !== undefined) return todo(`the certificate is made anew: ${why}`);
    }
    return done;
  }

  /**
   * Issues what this node needs from the start, or that anew which soon ends, and puts it in place. `peers`: further
   * names that the server's is to be good for. True when the server has another one than before, which it takes when
   * it reads its configuration again.
   */
  async install(folder: ServerFolder, peers: readonly string[] = []): Promise<boolean> {
    const { kind, name } = this.#options;
    const authority = await CertificateAuthority.open(this.#caFolder);
    await folder.own(this.folder);
    await writeFileAtomic(this.caFile, authority.caPem, { mode: 0o644, owner: folder.runAs });
    if (kind === 'access') {
      const own = await authority.issueClient(SUPERUSER);
      await this.#put(own, this.#pair(certificateName(SUPERUSER)), folder);
    }
    const issued = await authority.issueServer(this.#names(peers), `server-${name}`);
    return this.#put(issued, this.#server, folder);
  }

  /** What clients of the server are shown. */
  async shown(): Promise<ServerCertificate> {
    return {
      certPem: await readFile(this.#server.certFile, 'utf8'),
      keyPem: await readFile(this.#server.keyFile, 'utf8'),
    };
  }

  /** How roles of this access node log in to data nodes. */
  credentials(folder: ServerFolder): CredentialOptions {
    return {
      certificatesFolder: this.folder,
      caFile: this.caFile,
      issue: async (role) => {
        const authority = await CertificateAuthority.open(this.#caFolder);
        const issued = await authority.issueClient(role);
        await this.#put(issued, this.#pair(basename(issued.certFile, '.crt')), folder);
      },
      serverPaths: {
        certificatesFolder: folder.seenByServer(this.folder),
        caFile: folder.seenByServer(this.caFile),
      },
    };
  }

  /**
   * Where clients may come in: on this machine, and under the names of all members, because a proxy on one leads to
   * another.
   */
  #names(peers: readonly string[]): [string, ...string[]] {
    const { group, tlsNames } = this.#options;
    const others = [...(group ? [group.host] : []), ...tlsNames, ...peers].filter(
      (name) => !isLoopback(name),
    );
    const [first, ...rest] = LOCAL_NAMES;
    return [first, ...rest, ...new Set(others)];
  }

  #pair(name: string): PairFiles {
    return { certFile: join(this.folder, `${name}.crt`), keyFile: join(this.folder, `${name}.key`) };
  }

  /** The key first: what a crash in between leaves does not go together, so it is repeated. False when it was there. */
  async #put(issued: PairFiles, place: PairFiles, { runAs }: ServerFolder): Promise<boolean> {
    let changed = false;
    for (const [from, to, mode] of [
      [issued.keyFile, place.keyFile, 0o600],
      [issued.certFile, place.certFile, 0o644],
    ] as const) {
      const text = await readFile(from, 'utf8');
      if (text === (await readOr(to))) continue;
      await writeFileAtomic(to, text, { mode, owner: runAs });
      changed = true;
    }
    return changed;
  }
}

async function readOr(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}
