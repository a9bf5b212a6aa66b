import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import { PlacementStore } from '../placement/placement-store.ts';
import { planAdmission, type AdmissionRules, type AnsweringEngine, type RegistryOf } from './admission.ts';
import type { Log } from './log.ts';
import type { NodeStatus } from './node-status.ts';
import { endpointOf } from './placement-control.ts';
import { PlacementRegistry } from './placement-registry.ts';
import { NODE_SERVICE } from './registration.ts';

export interface StorageAdmissionDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly coordinator: Coordinator;
  /** What the registries of data nodes say, as of a moment ago. */
  readonly databases: () => readonly RegistryOf[];
  /** For those who look at a terminal. */
  readonly note: (level: 'info' | 'warn', text: string) => void;
}

export interface StorageAdmissionOptions {
  /** This access node. */
  readonly node: string;
  readonly rules: AdmissionRules;
  /** What storage engines ask for. */
  readonly token: string | undefined;
}

const EVERY_MS = 1000;
const ANSWER_TIMEOUT_MS = 3000;
/** Of one that is in the placement: where it is changes seldom. */
const ASK_AGAIN_MS = 10_000;

/**
 * Keeps the placement of storage engines in step with the registry of data nodes, on the access node that carries out
 * what the registry says. Every round is one small step; what fails is tried again in the next.
 */
export class StorageAdmission {
  readonly #deps: StorageAdmissionDeps;
  readonly #options: StorageAdmissionOptions;
  readonly #store: PlacementStore;
  readonly #registry: PlacementRegistry;
  readonly #asked = new Map<string, { readonly atMs: number; readonly engine: AnsweringEngine }>();
  readonly #goneSince = new Map<string, number>();
  #missingSince: number | undefined;
  #waitingFor: readonly string[] = [];
  #said = '';

  constructor(deps: StorageAdmissionDeps, options: StorageAdmissionOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#store = new PlacementStore(deps.coordinator);
    this.#registry = new PlacementRegistry(deps.coordinator);
  }

  /** What it waits for, in words. */
  get waitingFor(): readonly string[] {
    return this.#waitingFor;
  }

  /** Until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    while (!signal.aborted) {
      try {
        await this.round(signal);
      } catch (error) {
        if (signal.aborted) return;
        this.#waitingFor = [messageOf(error)];
      }
      const waiting = this.#waitingFor.map((text) => text.replace(/\d+ s more/, 'more time')).join('; ');
      if (waiting !== this.#said && waiting !== '') {
        log.info({ waiting }, 'the placement of storage engines waits');
      }
      this.#said = waiting;
      await clock.sleep(EVERY_MS, signal).catch(() => {});
    }
  }

  /** One step. @throws what the coordinator throws */
  async round(signal?: AbortSignal): Promise<void> {
    const { clock, log, databases, note } = this.#deps;
    const { node, rules } = this.#options;
    const registries = databases();
    const nowMs = clock.monotonicMs();
    const names = registries.flatMap(({ isWriteMaster, nodes }) =>
      isWriteMaster ? nodes.map(({ name }) => name) : [],
    );
    if (!registries.some(({ isWriteMaster }) => isWriteMaster)) {
      this.#waitingFor = [];
      return;
    }
    const placement = await this.#store.read();
    const { owned, version } = await this.#registry.read();
    if (placement || names.length === 0) this.#missingSince = undefined;
    else this.#missingSince ??= nowMs;
    const step = planAdmission(
      {
        placement,
        owned,
        databases: registries,
        engines: await this.#engines(names, signal),
        waitedMs: this.#missingSince === undefined ? 0 : nowMs - this.#missingSince,
        goneMs: new Map([...this.#goneSince].map(([name, sinceMs]) => [name, nowMs - sinceMs])),
      },
      rules,
    );
    this.#waitingFor = step?.waitingFor ?? [];
    this.#remember(step?.gone ?? [], nowMs);
    if (!step || (step.owned && !(await this.#registry.write(step.owned, version)))) return;
    const { change } = step;
    if (!change) return;
    const at = new Date(clock.nowMs()).toISOString();
    const what = { at, by: `the registry of data nodes, on ${node}`, what: change.what };
    // What was planned is for that placement: on another it is planned again.
    const isMade =
      (await this.#store.update((was) => (was?.version === placement?.version ? change.next : was), what)) ===
      change.next;
    if (!isMade) return;
    const text = `the placement of storage engines, version ${change.next.version}: ${change.what}`;
    log.info({ version: change.next.version, what: change.what }, 'the placement was changed');
    note('info', text);
  }

  #remember(gone: readonly string[], nowMs: number): void {
    for (const name of this.#goneSince.keys()) if (!gone.includes(name)) this.#goneSince.delete(name);
    for (const name of gone) if (!this.#goneSince.has(name)) this.#goneSince.set(name, nowMs);
  }

  /** Those of these nodes that the coordinator knows and that answer. */
  async #engines(
    names: readonly string[],
    signal: AbortSignal | undefined,
  ): Promise<Map<string, AnsweringEngine>> {
    const services = await this.#deps.coordinator.services(NODE_SERVICE, { passing: true });
    const engines = new Map<string, AnsweringEngine>();
    await Promise.all(
      names.map(async (name) => {
        const endpoint = endpointOf(services, name);
        const engine = endpoint === undefined ? undefined : await this.#engine(name, endpoint, signal);
        if (engine) engines.set(name, engine);
      }),
    );
    return engines;
  }

  async #engine(
    name: string,
    endpoint: string,
    signal: AbortSignal | undefined,
  ): Promise<AnsweringEngine | undefined> {
    const nowMs = this.#deps.clock.monotonicMs();
    const before = this.#asked.get(name);
    if (before?.engine.endpoint === endpoint && nowMs - before.atMs < ASK_AGAIN_MS) return before.engine;
    const { token } = this.#options;
    try {
      const response = await fetch(`${endpoint}/api/status`, {
        headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
        signal: AbortSignal.any([AbortSignal.timeout(ANSWER_TIMEOUT_MS), ...(signal ? [signal] : [])]),
      });
      const status = (await response.json()) as NodeStatus;
      const shardCount = status.storage?.shardCount;
      if (status.name !== name || typeof shardCount !== 'number') return undefined;
      const engine = { endpoint, shardCount };
      this.#asked.set(name, { atMs: nowMs, engine });
      return engine;
    } catch {
      // One that does not answer is waited for.
      this.#asked.delete(name);
      return undefined;
    }
  }
}
