import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { CredentialOptions } from '../data-node/credentials.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';
import { CertificateAuthority, certificateName } from '../postgres/certificates.ts';
import type { ServerFolder } from '../postgres/server-folder.ts';
import { done, todo, type Check } from '../run/step.ts';
import type { NodeOptions } from './node-options.ts';
import { SUPERUSER } from './system-folder.ts';

/** Names under which nodes on one machine reach each other. */
export const LOCAL_NAMES = ['localhost', '127.0.0.1', '::1'] as const;

const RENEW_BEFORE_MS = 240 * 86_400_000;

/**
 * The certificates of one node that runs its own PostgreSQL: issued by the system's authority, copied to where
 * the server and its user can read them. A data node shows a server certificate; an access node logs in to
 * data nodes with one for each role.
 */
export class NodeCertificates {
  readonly folder: string;
  readonly caFile: string;
  readonly server: { readonly certFile: string; readonly keyFile: string; readonly caFile: string };
  readonly #options: Pick<NodeOptions, 'kind'>;
  readonly #caFolder: string;

  /** Undefined where there is no authority. */
  static of(
    options: Pick<NodeOptions, 'kind' | 'caFolder'>,
    serverFolder: string,
  ): NodeCertificates | undefined {
    if (options.caFolder === undefined) return undefined;
    return new NodeCertificates(options, options.caFolder, join(serverFolder, 'certs'));
  }

  private constructor(options: Pick<NodeOptions, 'kind'>, caFolder: string, folder: string) {
    this.#options = options;
    this.#caFolder = caFolder;
    this.folder = folder;
    this.caFile = join(folder, 'ca.crt');
    this.server = {
      certFile: join(folder, 'server.crt'),
      keyFile: join(folder, 'server.key'),
      caFile: this.caFile,
    };
  }

  /** Looks, and changes nothing. */
  async check(nowMs: number): Promise<Check> {
    const path = this.#own();
    const text = await readFile(path, 'utf8').catch(() => '');
    if (text === '') return todo('there is no certificate yet');
    const ca = await readFile(join(this.#caFolder, 'ca.crt'), 'utf8').catch(() => '');
    if (ca !== (await readFile(this.caFile, 'utf8').catch(() => '')))
      return todo('the authority is another one');
    const { validTo } = new X509Certificate(text);
    return Date.parse(validTo) - nowMs < RENEW_BEFORE_MS ? todo(`the certificate ends on ${validTo}`) : done;
  }

  /** Issues what this node needs from the start, and puts it in place. */
  async install(folder: ServerFolder): Promise<void> {
    const authority = await CertificateAuthority.open(this.#caFolder);
    await folder.own(this.folder);
    await writeFileAtomic(this.caFile, authority.caPem, { mode: 0o644, owner: folder.runAs });
    const issued = await (this.#options.kind === 'data'
      ? authority.issueServer([...LOCAL_NAMES])
      : authority.issueClient(SUPERUSER));
    await this.#put(issued, folder);
  }

  /** How roles of this access node log in to data nodes. */
  credentials(folder: ServerFolder): CredentialOptions {
    return {
      certificatesFolder: this.folder,
      caFile: this.caFile,
      issue: async (role) => {
        const authority = await CertificateAuthority.open(this.#caFolder);
        await this.#put(await authority.issueClient(role), folder);
      },
      serverPaths: {
        certificatesFolder: folder.seenByServer(this.folder),
        caFile: folder.seenByServer(this.caFile),
      },
    };
  }

  /** The certificate that this kind of node cannot do without. */
  #own(): string {
    if (this.#options.kind === 'data') return this.server.certFile;
    return join(this.folder, `${certificateName(SUPERUSER)}.crt`);
  }

  /** The key first: a crash in between leaves no certificate, so it is repeated. */
  async #put(
    { keyFile, certFile }: { keyFile: string; certFile: string },
    { runAs }: ServerFolder,
  ): Promise<void> {
    for (const [path, mode] of [
      [keyFile, 0o600],
      [certFile, 0o644],
    ] as const) {
      const text = await readFile(path, 'utf8');
      await writeFileAtomic(join(this.folder, basename(path)), text, { mode, owner: runAs });
    }
  }
}
