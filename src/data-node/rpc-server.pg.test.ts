import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { testDatabase, type TestDatabase } from '../../test/database.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { CertificateAuthority } from '../postgres/certificates.ts';
import type { Connection } from '../postgres/connection.ts';
import { RpcServer } from './rpc-server.ts';

let database: TestDatabase;
let session: Connection;
let folder: string;
let tls: { certPem: string; keyPem: string };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}rpc-`));
  database = await testDatabase();
  session = await database.connect();
  await session.query('create extension dblink schema public');
  const authority = await CertificateAuthority.open(folder);
  const { certFile, keyFile } = await authority.issueServer(['127.0.0.1']);
  tls = { certPem: await readFile(certFile, 'utf8'), keyPem: await readFile(keyFile, 'utf8') };
});

afterAll(async () => {
  await session.close();
  await database[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

function ask(port: number, more: string): Promise<unknown> {
  const login = `host=127.0.0.1 port=${port} user=varve dbname=varve password=s3cret require_auth=scram-sha-256 ${more}`;
  return session.one('select r from public.dblink($1, $2) as (r text)', [login, 'a request']);
}

it.each([
  ['in the clear', false, 'sslmode=disable'],
  ['over TLS', true, 'sslmode=require'],
  ['over TLS, certificate and name checked', true, 'sslmode=verify-full'],
])('dblink reaches it %s', async (_how, encrypted, options) => {
  await using server = await RpcServer.listen(
    { listen: { host: '127.0.0.1', port: 0 }, secret: 's3cret', tls: encrypted ? tls : undefined },
    (request) => Promise.resolve(`answer to ${request}`),
  );
  // The server reads the root certificate as its own user.
  execFileSync('chmod', ['755', folder]);
  const root = options.includes('verify') ? ` sslrootcert=${join(folder, 'ca.crt')}` : '';
  expect(await ask(server.port, options + root)).toEqual({ r: 'answer to a request' });
});

it('in the clear is refused where TLS is configured', async () => {
  await using server = await RpcServer.listen(
    { listen: { host: '127.0.0.1', port: 0 }, secret: 's3cret', tls },
    () => Promise.reject(new Error('must not be asked')),
  );
  await expect(ask(server.port, 'sslmode=disable')).rejects.toMatchObject({
    detail: expect.stringContaining('this daemon speaks over TLS only') as string,
  });
});
