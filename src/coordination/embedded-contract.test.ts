import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../core/clock.ts';
import { silentLog, testCoordinator } from './contract.suite.ts';
import { EMBEDDED_MIN_TTL_MS, EmbeddedCoordinator } from './embedded-server.ts';
import { openCoordinator } from './open-coordinator.ts';

testCoordinator('embedded', async () => {
  const deps = { clock: systemClock, log: silentLog };
  const folder = await mkdtemp(join(tmpdir(), 'varve-test-coordinator-'));
  let server = await EmbeddedCoordinator.start({ folder }, deps);
  return {
    minTtlMs: EMBEDDED_MIN_TTL_MS,
    get url() {
      return server.url;
    },
    open: (url = server.url) => openCoordinator({ kind: 'embedded', url, timeoutMs: 3000 }, deps),
    async restart() {
      await server.close();
      server = await EmbeddedCoordinator.start({ folder }, deps);
    },
    async [Symbol.asyncDispose]() {
      await server.close();
      await rm(folder, { recursive: true });
    },
  };
});
