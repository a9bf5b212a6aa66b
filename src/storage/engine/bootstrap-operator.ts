import type { BootstrapLoop } from '../bootstrap/bootstrap-loop.ts';
import type { Intervention, Interventions } from '../bootstrap/interventions.ts';
import {
  planIntervention,
  type BootstrapState,
  type InterventionPlan,
  type InterventionRequest,
} from '../bootstrap/plan-intervention.ts';
import type { TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import type { HybridClock } from './hybrid-clock.ts';
import type { NamespaceRegistry } from './namespace-registry.ts';

export interface BootstrapOperatorDeps {
  readonly clock: HybridClock;
  readonly registry: NamespaceRegistry;
  readonly interventions: Interventions;
  readonly history: () => BootstrapLoop['history'];
  readonly topology: () => TopologySnapshot;
  readonly serially: <T>(work: () => Promise<T>) => Promise<T>;
  /** Begins another attempt, with peers that were left alone. */
  readonly tryAgain: () => void;
}

/** What an operator may tell a bootstrap that cannot go on by itself. */
export class BootstrapOperator {
  readonly #deps: BootstrapOperatorDeps;

  constructor(deps: BootstrapOperatorDeps) {
    this.#deps = deps;
  }

  /** What was done, the newest last. */
  get history(): readonly Intervention[] {
    return this.#deps.interventions.all;
  }

  /** What it would do; changes nothing. @throws BOOTSTRAP_INTERVENTION_REFUSED */
  plan(request: InterventionRequest): InterventionPlan {
    return planIntervention(request, this.#state());
  }

  /** Written down, with who asked for it, before it is in force. @throws BOOTSTRAP_INTERVENTION_REFUSED */
  async act(request: InterventionRequest, by: string): Promise<InterventionPlan> {
    const { clock, interventions, serially, tryAgain } = this.#deps;
    return await serially(async () => {
      const plan = this.plan(request);
      const atNs = clock.nowNs();
      await interventions.add(plan.actions.map((action) => ({ ...action, atNs, by })));
      tryAgain();
      return plan;
    });
  }

  #state(): BootstrapState {
    const { clock, registry, history, topology } = this.#deps;
    const last = history().findLast(({ state }) => state !== 'running');
    const isRetrying = last?.state === 'retrying';
    const unfulfilled = isRetrying ? last.unfulfilled : [];
    return {
      nowNs: clock.nowNs(),
      topology: topology(),
      // Since then some may have become whole.
      unfulfilled: unfulfilled.filter(
        ({ namespace, shard }) => registry.find(namespace)?.isWhole(shard) === false,
      ),
      isRetrying: isRetrying && (last.error !== undefined || unfulfilled.length > 0),
      namespaceId: (name) => registry.find(name)?.id,
    };
  }
}
