import { X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Clock } from '../core/clock.ts';
import { CertificateAuthority } from './certificates.ts';

let folder: string;
beforeEach(async () => {
  folder = join(await mkdtemp(join(tmpdir(), 'varve-test-certs-')), 'certs');
});
afterEach(() => rm(join(folder, '..'), { recursive: true }));

const DAY_MS = 86_400_000;
const clockAt = (nowMs: number): { clock: Clock } => ({
  clock: { nowMs: () => nowMs, monotonicMs: () => nowMs, sleep: async () => {} },
});
const now = Date.UTC(2030, 0, 1);
const open = (nowMs = now): Promise<CertificateAuthority> =>
  CertificateAuthority.open(folder, {}, clockAt(nowMs));
const read = async (path: string): Promise<X509Certificate> => new X509Certificate(await readFile(path));

it('makes the authority once, its key closed to others', async () => {
  const first = await open();
  const second = await open();
  expect(second.caPem).toBe(first.caPem);
  expect((await read(first.caFile)).ca).toBe(true);
  expect((await stat(join(folder, 'ca.pem'))).mode & 0o777).toBe(0o600);
  expect(await readFile(first.caFile, 'utf8')).not.toContain('PRIVATE');
});

it('lets one of many first users make it, and leaves nothing else behind', async () => {
  const all = await Promise.all(Array.from({ length: 8 }, () => open()));
  expect(new Set(all.map(({ caPem }) => caPem)).size).toBe(1);
  expect((await readdir(folder)).toSorted()).toEqual(['ca.crt', 'ca.pem']);
});

it('issues a server certificate for names and addresses that the authority vouches for', async () => {
  const authority = await open();
  const { certFile, keyFile, issued } = await authority.issueServer(['db1.example', '127.0.0.1', '::1']);
  const certificate = await read(certFile);
  expect(issued).toBe(true);
  expect(certificate.checkIssued(await read(authority.caFile))).toBe(true);
  expect(certificate.checkHost('db1.example')).toBe('db1.example');
  expect(certificate.checkIP('127.0.0.1')).toBe('127.0.0.1');
  expect(certificate.checkHost('other.example')).toBeUndefined();
  expect((await stat(keyFile)).mode & 0o777).toBe(0o600);
});

it('names the files of a role by the MD5 of its name', async () => {
  const { certFile, keyFile } = await (await open()).issueClient('carol');
  expect(certFile).toBe(join(folder, 'a9a0198010a6073db96434f6cc5f22a8.crt'));
  expect(keyFile).toBe(join(folder, 'a9a0198010a6073db96434f6cc5f22a8.key'));
});

it.each(['x="admin"', 'O=Acme, CN="x"', '#41', ' lead', 'a+b\\c', 'ünï'])(
  'has the role %j as its subject, exactly',
  async (role) => {
    const certificate = await read((await (await open()).issueClient(role)).certFile);
    expect(certificate.toLegacyObject().subject).toEqual({ CN: role });
  },
);

it('keeps a certificate while a third of its time is left, then renews it', async () => {
  await (await open()).issueClient('carol');
  expect((await (await open(now + 400 * DAY_MS)).issueClient('carol')).issued).toBe(false);
  expect((await (await open(now + 500 * DAY_MS)).issueClient('carol')).issued).toBe(true);
});

it('renews a server certificate that lacks a name', async () => {
  const authority = await open();
  await authority.issueServer(['a.example', 'b.example']);
  expect((await authority.issueServer(['b.example'])).issued).toBe(false);
  expect((await authority.issueServer(['b.example', 'c.example'])).issued).toBe(true);
});

it.each(['crt', 'key'])('replaces a pair of which the .%s is of another one', async (suffix) => {
  const authority = await open();
  const carol = await authority.issueClient('carol');
  const dave = await authority.issueClient('dave');
  const from = suffix === 'crt' ? dave.certFile : dave.keyFile;
  await writeFile(suffix === 'crt' ? carol.certFile : carol.keyFile, await readFile(from));
  expect((await authority.issueClient('carol')).issued).toBe(true);
});

it('replaces what another authority signed', async () => {
  const { certFile } = await (await open()).issueClient('carol');
  const before = await readFile(certFile, 'utf8');
  await rm(join(folder, 'ca.pem'));
  expect((await (await open()).issueClient('carol')).issued).toBe(true);
  expect(await readFile(certFile, 'utf8')).not.toBe(before);
});

it('refuses a damaged authority and one whose time is over, and says what to do', async () => {
  await open();
  await expect(open(now + 8000 * DAY_MS)).rejects.toMatchObject({ code: 'CERTIFICATE_INVALID' });
  await writeFile(join(folder, 'ca.pem'), 'nonsense');
  await expect(open()).rejects.toMatchObject({
    code: 'CERTIFICATE_INVALID',
    hint: expect.stringContaining('Restore') as string,
  });
});
