import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '../src/core/clock.ts';
import { Connection } from '../src/postgres/connection.ts';

/**
 * Memory of an access node's daemon with many data nodes, by the front door: `varve up`, then SQL.
 *   npm run bench -- daemon-memory
 */
const NODES = Number(process.argv[2] ?? 100);

interface Connections {
  access: [{ pid: number; host: string; port: number; database: string; user: string; passwordFile: string }];
  data: [{ pgPort: number }];
}

const folder = await mkdtemp(join(tmpdir(), 'varve-bench-'));
const varve = fileURLToPath(new URL('../bin/varve.js', import.meta.url));
const up = spawn(process.execPath, [varve, 'up', '--dir', folder, '--data', '1', '--no-metrics'], {
  stdio: ['ignore', 'ignore', 'inherit'],
});
const exited = once(up, 'exit');
try {
  const { access, data } = await connections();
  const [{ pid, host, port, database, user, passwordFile }] = access;
  const password = (await readFile(passwordFile, 'utf8')).trim();
  await using session = await open({ host, port, database, user, password });
  console.log(`one data node:            ${await memory(pid)}`);
  for (let i = 0; i < NODES; i++) {
    await session.query(`select add_data_node($1, '127.0.0.1', $1, $2)`, [`node${i}`, data[0].pgPort]);
  }
  console.log(`${NODES} more, just added:     ${await memory(pid)}`);
  // A few rounds of looking after them, and of asking all at once.
  for (let i = 0; i < 5; i++) {
    await session.query('select * from health()');
    await systemClock.sleep(5_000);
  }
  console.log(`after 25 s with health():  ${await memory(pid)}`);
} finally {
  up.kill('SIGTERM');
  await exited;
  await rm(folder, { recursive: true, force: true });
}

async function connections(): Promise<Connections> {
  for (;;) {
    const text = await readFile(join(folder, 'connections.json'), 'utf8').catch(() => undefined);
    if (text !== undefined) return JSON.parse(text) as Connections;
    if (up.exitCode !== null) throw new Error('varve up ended');
    await systemClock.sleep(200);
  }
}

async function open(endpoint: Parameters<typeof Connection.open>[0]): Promise<Connection> {
  for (;;) {
    try {
      const connection = await Connection.open(endpoint, { connectTimeoutMs: 5_000 });
      const { rows } = await connection.query('select 1 from varve.data_nodes');
      if (rows.length > 0) return connection;
      await connection.close();
    } catch {
      // Not up yet.
    }
    await systemClock.sleep(200);
  }
}

/** Resident memory now and at its highest, from /proc. */
async function memory(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const megabytes = (name: string): string =>
    (Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]) / 1024).toFixed(0);
  return `${megabytes('VmRSS')} MB resident, ${megabytes('VmHWM')} MB at most`;
}
