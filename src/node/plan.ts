import type { Clock } from '../core/clock.ts';
import { planSteps } from '../run/run.ts';
import type { NodeKind } from './layout.ts';
import type { NodeOptions } from './node-options.ts';
import { nodeContext, nodeSteps } from './node-steps.ts';

/** What a start of one node would do. */
export interface NodePlan {
  readonly name: string;
  readonly kind: NodeKind;
  readonly steps: readonly {
    readonly step: string;
    readonly state: 'done' | 'todo';
    readonly reason: string | null;
  }[];
}

/** Runs the checks of a node's bring-up; changes nothing. */
export async function planNode(clock: Clock, options: NodeOptions, signal: AbortSignal): Promise<NodePlan> {
  await using context = await nodeContext({ clock }, options);
  const planned = await planSteps(nodeSteps(context), context, signal);
  return {
    name: options.name,
    kind: options.kind,
    steps: planned.map(({ step, check }) => ({
      step,
      state: check.state,
      reason: check.state === 'todo' ? check.reason : null,
    })),
  };
}

export function planLines(plans: readonly NodePlan[]): string[] {
  return plans.flatMap(({ name, kind, steps }) => [
    `${name} (${kind} node)`,
    ...steps.map(({ step, reason }) => (reason === null ? `  ✔ ${step}` : `  → ${step}: ${reason}`)),
  ]);
}
