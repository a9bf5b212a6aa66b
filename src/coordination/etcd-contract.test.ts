import { systemClock } from '../core/clock.ts';
import { silentLog, testCoordinator } from './contract.suite.ts';
import { ETCD_TEST_MIN_TTL_MS, EtcdServers, findEtcd, skipWithoutEtcd } from './etcd-process.suite.ts';
import { serviceKeys, sessionKeys } from './etcd-keys.ts';
import { openCoordinator } from './open-coordinator.ts';

const etcd = findEtcd();

if (etcd === undefined) {
  skipWithoutEtcd('the contract of the coordinator: etcd');
} else {
  testCoordinator('etcd', async () => {
    const servers = await EtcdServers.start(etcd, 1);
    const [url = ''] = servers.urls;
    const deps = { clock: systemClock, log: silentLog };
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    return {
      url,
      minTtlMs: ETCD_TEST_MIN_TTL_MS,
      open: (to = url) =>
        openCoordinator({ kind: 'etcd', url: to, timeoutMs: 3000, minTtlMs: ETCD_TEST_MIN_TTL_MS }, deps),
      async restart() {
        await servers.kill(0);
        await servers.start(0);
      },
      operator: {
        async endSession(id) {
          const range = { key: base64(sessionKeys(id).lock) };
          const { kvs } = await servers.call<{ kvs: { lease: string }[] }>('kv/range', range);
          await servers.call('lease/revoke', { ID: kvs[0]?.lease });
        },
        async deregister({ id, name }) {
          for (const key of Object.values(serviceKeys(name, id))) {
            await servers.call('kv/deleterange', { key: base64(key) });
          }
        },
      },
      [Symbol.asyncDispose]: () => servers[Symbol.asyncDispose](),
    };
  });
}
