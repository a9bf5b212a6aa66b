/**
 * Services and their checks. The same rules as in `embedded-store.ts`: `apply` is deterministic, what depends
 * on the time is in `due`.
 */

export type CheckStatus = 'passing' | 'warning' | 'critical';

export interface ServiceRow {
  readonly id: string;
  readonly name: string;
  readonly tags: readonly string[];
  readonly address: string;
  readonly port: number;
  readonly meta: Readonly<Record<string, string>>;
  readonly enableTagOverride: boolean;
  readonly createIndex: number;
  readonly modifyIndex: number;
}

export interface CheckDefinition {
  readonly id: string;
  readonly serviceId: string;
  readonly name: string;
  readonly notes: string;
  readonly method:
    | { readonly kind: 'ttl'; readonly ttlMs: number }
    | {
        readonly kind: 'http';
        readonly url: string;
        readonly intervalMs: number;
        readonly timeoutMs: number;
      };
  /** 0: never. */
  readonly deregisterAfterMs: number;
}

export interface CheckRow extends CheckDefinition {
  readonly status: CheckStatus;
  readonly output: string;
  readonly createIndex: number;
  readonly modifyIndex: number;
}

export type CatalogCommand =
  | {
      readonly kind: 'service-register';
      readonly service: Omit<ServiceRow, 'createIndex' | 'modifyIndex'>;
      /** The checks the service has from now on; a check it had before keeps its status. */
      readonly checks: readonly (CheckDefinition & { readonly status: CheckStatus })[];
    }
  | { readonly kind: 'service-deregister'; readonly id: string }
  | {
      readonly kind: 'check-status';
      readonly id: string;
      readonly status: CheckStatus;
      readonly output: string;
    };

export interface CatalogSnapshot {
  readonly services: readonly ServiceRow[];
  readonly checks: readonly CheckRow[];
}

export const serviceTopic = (name: string): string => `service:${name}`;
export const CATALOG_TOPIC = 'catalog';
export const CHECKS_TOPIC = 'checks';

export class Catalog {
  readonly #services = new Map<string, ServiceRow>();
  readonly #checks = new Map<string, CheckRow>();
  /** When a TTL check becomes critical unless it is told otherwise. */
  readonly #ttlEndsMs = new Map<string, number>();
  /** Since when a check has been critical without a break. */
  readonly #criticalSinceMs = new Map<string, number>();

  constructor(nowMs: number, snapshot?: CatalogSnapshot) {
    for (const service of snapshot?.services ?? []) this.#services.set(service.id, service);
    for (const check of snapshot?.checks ?? []) {
      this.#checks.set(check.id, check);
      this.#heard(check, nowMs);
    }
  }

  get services(): ReadonlyMap<string, ServiceRow> {
    return this.#services;
  }

  get checks(): ReadonlyMap<string, CheckRow> {
    return this.#checks;
  }

  checksOf(serviceId: string): CheckRow[] {
    return [...this.#checks.values()].filter((check) => check.serviceId === serviceId);
  }

  /** The topics that changed; empty when the command had no effect. */
  apply(command: CatalogCommand, index: number, nowMs: number): string[] {
    switch (command.kind) {
      case 'service-register':
        return this.#register(command, index, nowMs);
      case 'service-deregister':
        return this.#deregister(command.id);
      default:
        return this.#setStatus(command, index, nowMs);
    }
  }

  /** A TTL check was told its present status again: no change, but it lives on. */
  heard(checkId: string, nowMs: number): void {
    const check = this.#checks.get(checkId);
    if (check) this.#heard(check, nowMs);
  }

  due(nowMs: number): CatalogCommand[] {
    const silent = [...this.#ttlEndsMs].filter(([, endsMs]) => endsMs <= nowMs);
    const lapsed = [...this.#criticalSinceMs.keys()].filter((id) => this.#lapsesMs(id) <= nowMs);
    const services = new Set(lapsed.map((id) => this.#checks.get(id)?.serviceId ?? ''));
    return [
      ...silent.map(([id]) => ({
        kind: 'check-status' as const,
        id,
        status: 'critical' as const,
        output: 'TTL expired',
      })),
      ...[...services].map((id) => ({ kind: 'service-deregister' as const, id })),
    ];
  }

  nextDueMs(): number {
    const lapses = [...this.#criticalSinceMs.keys()].map((id) => this.#lapsesMs(id));
    return Math.min(Infinity, ...this.#ttlEndsMs.values(), ...lapses);
  }

  snapshot(): CatalogSnapshot {
    return { services: [...this.#services.values()], checks: [...this.#checks.values()] };
  }

  #register(
    { service, checks }: Extract<CatalogCommand, { kind: 'service-register' }>,
    index: number,
    nowMs: number,
  ): string[] {
    const before = this.#services.get(service.id);
    const row = { ...service, createIndex: before?.createIndex ?? index, modifyIndex: index };
    const rows = checks.map((check): CheckRow => {
      const known = this.#checks.get(check.id);
      const kept = known?.serviceId === service.id ? { status: known.status, output: known.output } : {};
      return { output: '', ...check, ...kept, createIndex: known?.createIndex ?? index, modifyIndex: index };
    });
    const checksBefore = this.checksOf(service.id);
    if (before && sameContent([before, ...checksBefore], [row, ...rows])) return [];
    this.#services.set(service.id, row);
    for (const { id } of checksBefore) this.#dropCheck(id);
    for (const check of rows) {
      this.#checks.set(check.id, check);
      this.#heard(check, nowMs);
    }
    return topicsOf(before, row);
  }

  #deregister(id: string): string[] {
    const service = this.#services.get(id);
    if (!service) return [];
    this.#services.delete(id);
    for (const check of this.checksOf(id)) this.#dropCheck(check.id);
    return topicsOf(service);
  }

  #setStatus(
    { id, status, output }: Extract<CatalogCommand, { kind: 'check-status' }>,
    index: number,
    nowMs: number,
  ): string[] {
    const before = this.#checks.get(id);
    if (!before) return [];
    const changed = before.status !== status || before.output !== output;
    const row = changed ? { ...before, status, output, modifyIndex: index } : before;
    this.#checks.set(id, row);
    this.#heard(row, nowMs);
    return changed ? topicsOf(this.#services.get(row.serviceId)) : [];
  }

  #heard(check: CheckRow, nowMs: number): void {
    const critical = check.status === 'critical';
    if (!critical) this.#criticalSinceMs.delete(check.id);
    else if (!this.#criticalSinceMs.has(check.id)) this.#criticalSinceMs.set(check.id, nowMs);
    if (check.method.kind !== 'ttl' || critical) this.#ttlEndsMs.delete(check.id);
    else this.#ttlEndsMs.set(check.id, nowMs + check.method.ttlMs);
  }

  #dropCheck(id: string): void {
    this.#checks.delete(id);
    this.#ttlEndsMs.delete(id);
    this.#criticalSinceMs.delete(id);
  }

  #lapsesMs(checkId: string): number {
    const afterMs = this.#checks.get(checkId)?.deregisterAfterMs ?? 0;
    return afterMs > 0 ? (this.#criticalSinceMs.get(checkId) ?? Infinity) + afterMs : Infinity;
  }
}

function topicsOf(...services: (ServiceRow | undefined)[]): string[] {
  const names = new Set(services.flatMap((service) => (service ? [service.name] : [])));
  return [...[...names].map(serviceTopic), CATALOG_TOPIC, CHECKS_TOPIC];
}

/** But for the indexes. */
function sameContent(a: readonly object[], b: readonly object[]): boolean {
  const plain = (rows: readonly object[]): string =>
    JSON.stringify(rows, (key, value: unknown) =>
      key === 'createIndex' || key === 'modifyIndex' ? undefined : value,
    );
  return plain(a) === plain(b);
}
