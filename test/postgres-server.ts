import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { TestProject } from 'vitest/node';
import { writeExtensionFiles } from '../src/data-node/extension-files.ts';
import { findBinaries, type Binaries } from '../src/postgres/binaries.ts';
import type { Endpoint } from '../src/postgres/connection.ts';
import { startServer } from '../src/postgres/server.ts';
import { TEMP_PREFIX } from './leak-check.ts';

/** Major versions that the tests cover. */
export const MAJORS = [15, 16, 17, 18];

/** Where the development packages with further majors are. */
export const EMBEDDED_FROM = ['postgres-16', 'postgres-17'].map((name) =>
  fileURLToPath(new URL(`../node_modules/${name}`, import.meta.url)),
);

/** Settings under which everything of Varve can be tried, and many small databases are quick. */
export const TEST_SETTINGS: Readonly<Record<string, string>> = {
  max_connections: '200',
  max_prepared_transactions: '50',
  wal_level: 'logical',
  max_wal_senders: '20',
  max_replication_slots: '50',
  shared_buffers: '64MB',
  autovacuum: 'off',
};

export interface TestServerFacts {
  readonly admin: Endpoint;
  readonly pid: number;
  readonly socketDir: string;
  readonly socketDirForBackends: string;
  readonly folder: string;
  /** Majors that this machine has. */
  readonly majors: readonly number[];
}

declare module 'vitest' {
  interface ProvidedContext {
    postgres: TestServerFacts;
  }
}

/** One PostgreSQL 18 for a run of the project `pg`, with extension `varve` on offer. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const majors = await installedMajors();
  const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}pg-`));
  const extensions = join(folder, 'extensions');
  await writeExtensionFiles(extensions);
  const server = await startServer({
    folder,
    port: 0,
    binaries: { kind: 'embedded', major: 18 },
    durable: false,
    settings: TEST_SETTINGS,
    extensionFolders: [extensions],
  });
  const { pid, socketDir, socketDirForBackends } = server;
  project.provide('postgres', {
    admin: server.admin(),
    pid,
    socketDir,
    socketDirForBackends,
    folder,
    majors,
  });
  return async () => {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  };
}

/** The programs of a major for tests: the system's or an embedded package's. */
export function testBinaries(major: number): Promise<Binaries> {
  return findBinaries({ kind: 'auto', major, embeddedFrom: EMBEDDED_FROM });
}

async function installedMajors(): Promise<number[]> {
  const missing: string[] = [];
  const found: number[] = [];
  for (const major of MAJORS) {
    await testBinaries(major).then(
      () => found.push(major),
      (error: Error) => missing.push(error.message),
    );
  }
  if (missing.length > 0) {
    if (process.env['VARVE_REQUIRE_SERVICES'] === '1') throw new Error(missing.join('\n'));
    console.warn(`\n  SKIPPED, because not installed:\n  ${missing.join('\n  ')}\n`);
  }
  return found;
}
