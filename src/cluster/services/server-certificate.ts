import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';

/** What a server shows clients that want TLS. */
export interface ServerCertificate {
  /** With the chain up to its authority. */
  readonly certPem: string;
  readonly keyPem: string;
}

export interface FoundCertificate {
  readonly certificate: ServerCertificate | undefined;
  /** Why there is none although the server has one. */
  readonly trouble: string | undefined;
}

const NONE: FoundCertificate = { certificate: undefined, trouble: undefined };

/**
 * The certificate of a PostgreSQL server on this machine, so that a pooler in front of it shows clients the same. None
 * when the server speaks no TLS, or has a key that cannot be read from here.
 */
export async function readServerCertificate(admin: Connection): Promise<FoundCertificate> {
  const { ssl, cert, key, folder, passphrase } = await admin.one<Record<string, string>>(
    `select pg_catalog.current_setting('ssl') as ssl, pg_catalog.current_setting('ssl_cert_file') as cert,
            pg_catalog.current_setting('ssl_key_file') as key, pg_catalog.current_setting('data_directory') as folder,
            pg_catalog.current_setting('ssl_passphrase_command') as passphrase`,
  );
  if (ssl !== 'on') return NONE;
  if (passphrase !== '') {
    return { certificate: undefined, trouble: "the key of the server's certificate has a passphrase" };
  }
  try {
    const read = (path = ''): Promise<string> => readFile(resolve(folder ?? '', path), 'utf8');
    const [certPem, keyPem] = [await read(cert), await read(key)];
    return { certificate: { certPem, keyPem }, trouble: undefined };
  } catch (error) {
    return {
      certificate: undefined,
      trouble: `the server's certificate cannot be read: ${messageOf(error)}`,
    };
  }
}
