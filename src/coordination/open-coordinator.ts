import { ConsulCoordinator } from './consul.ts';
import type { Coordinator, CoordinatorBounds, CoordinatorDeps, CoordinatorKind } from './coordinator.ts';
import {
  DEFAULT_LOCK_DELAY_MS,
  MAX_LOCK_DELAY_MS,
  MAX_TTL_MS,
  MAX_TXN_BYTES,
  MAX_TXN_OPERATIONS,
  MAX_VALUE_BYTES,
} from './embedded-api.ts';
import { EMBEDDED_MIN_TTL_MS } from './embedded-server.ts';
import { EtcdCoordinator } from './etcd.ts';
import type { EtcdUser } from './etcd-http.ts';
import { type EtcdTls, membersOf } from './etcd-transport.ts';

export interface CoordinatorOptions {
  readonly kind: CoordinatorKind;
  /** Of etcd several, separated by commas: its members. */
  readonly url: string;
  /** Consul's and the embedded one's. */
  readonly token?: string;
  /** etcd's, where its authentication is enabled. */
  readonly user?: EtcdUser;
  /** etcd's, beyond the authorities that Node trusts. */
  readonly tls?: EtcdTls;
  /** Consul's; the agent's own by default. */
  readonly datacenter?: string;
  /** For an answer; 5 s by default. */
  readonly timeoutMs?: number;
  /** Where the server was configured to allow less than it does by default. */
  readonly minTtlMs?: number;
}

const CONSUL_BOUNDS: CoordinatorBounds = {
  minTtlMs: 10_000,
  maxTtlMs: MAX_TTL_MS,
  lockDelayMs: DEFAULT_LOCK_DELAY_MS,
  maxLockDelayMs: MAX_LOCK_DELAY_MS,
  maxValueBytes: MAX_VALUE_BYTES,
  maxTxnOperations: MAX_TXN_OPERATIONS,
  maxTxnBytes: MAX_TXN_BYTES,
};

/** On one machine there is no network that could hold back a holder's last message. */
const EMBEDDED_BOUNDS: CoordinatorBounds = {
  ...CONSUL_BOUNDS,
  minTtlMs: EMBEDDED_MIN_TTL_MS,
  lockDelayMs: 2000,
};

/** The values' limits are Consul's, so that what one kind takes the others take; etcd itself takes 1.5 MiB. */
const ETCD_BOUNDS: CoordinatorBounds = {
  ...CONSUL_BOUNDS,
  // Of etcd with its default election timeout.
  minTtlMs: 2000,
  lockDelayMs: 5000,
};

/**
 * A client of the coordinator at `url`. Opens no connection: `status()` tells whether it is there. Disposing
 * of it ends its sessions and registrations.
 * @throws INVALID_ARGUMENT when the URL is wrong
 */
export function openCoordinator(options: CoordinatorOptions, deps: CoordinatorDeps): Coordinator {
  const { kind, url, token, datacenter, timeoutMs = 5000 } = options;
  if (kind === 'etcd') return openEtcd(options, { timeoutMs, deps });
  const bounds = kind === 'embedded' ? EMBEDDED_BOUNDS : CONSUL_BOUNDS;
  const endpoint = {
    url,
    timeoutMs,
    ...(token === undefined ? {} : { token }),
    ...(datacenter === undefined ? {} : { datacenter }),
  };
  const what = { kind, bounds: { ...bounds, minTtlMs: options.minTtlMs ?? bounds.minTtlMs } };
  return new ConsulCoordinator(what, endpoint, deps);
}

function openEtcd(
  { url, user, tls, minTtlMs = ETCD_BOUNDS.minTtlMs }: CoordinatorOptions,
  { timeoutMs, deps }: { readonly timeoutMs: number; readonly deps: CoordinatorDeps },
): Coordinator {
  const given = { ...(user === undefined ? {} : { user }), ...(tls === undefined ? {} : { tls }) };
  const endpoint = { members: membersOf(url), timeoutMs, ...given };
  return new EtcdCoordinator({ ...ETCD_BOUNDS, minTtlMs }, endpoint, deps);
}
