import { labelMatcher } from '../index/matcher.ts';
import { parseSelector } from '../index/selector.ts';
import type { LabelPair } from '../index/labels.ts';
import type { StorageEngine } from '../engine/storage-engine.ts';
import { sameNamespace } from '../engine/namespace-options.ts';
import type { Model } from './model.suite.ts';

const EVERYTHING = { startNs: -(1n << 62n), endNs: 1n << 62n };

/** Canonical labels as text. */
export function keyOf(labels: readonly LabelPair[]): string {
  return labels.map(([name, value]) => `${name}=${value}`).join(',');
}

export function labelsOf(key: string): LabelPair[] {
  return key.split(',').map((pair): LabelPair => {
    const at = pair.indexOf('=');
    return [pair.slice(0, at), pair.slice(at + 1)];
  });
}

/** All that an engine gives for a namespace, and what is wrong with the form in which it does. */
export async function readEverything(
  engine: StorageEngine,
  namespace: string,
  selector = '{__name__=~".+"}',
): Promise<{ found: Map<string, Map<bigint, bigint>>; wrong: string[] }> {
  const found = new Map<string, Map<bigint, bigint>>();
  const wrong: string[] = [];
  for await (const series of engine.read(namespace, { matchers: parseSelector(selector), ...EVERYTHING })) {
    const key = keyOf(series.labels);
    if (found.has(key)) wrong.push(`${namespace} ${key} comes twice`);
    const samples = new Map<bigint, bigint>();
    let before: bigint | undefined;
    for await (const { times, bits, values } of series.batches) {
      if (times.length === 0) wrong.push(`${namespace} ${key} has an empty batch`);
      if (times.length !== bits.length || times.length !== values.length) {
        wrong.push(`${namespace} ${key} has columns of different lengths`);
      }
      for (const [i, time] of times.entries()) {
        if (before !== undefined && time <= before)
          wrong.push(`${namespace} ${key}: ${time} after ${before}`);
        before = time;
        samples.set(time, bits[i] ?? 0n);
      }
    }
    if (samples.size > 0) found.set(key, samples);
  }
  return { found, wrong };
}

/**
 * What is wrong with an engine by the model; nothing, if all is well. Settles in the model what was open until it
 * was read.
 */
export async function check(engine: StorageEngine, model: Model): Promise<string[]> {
  const wrong = settleNamespaces(engine, model);
  if (wrong.length > 0) return wrong;
  for (const { name, options } of model.namespaces.values()) {
    const { found, wrong: malformed } = await readEverything(engine, name);
    wrong.push(...malformed, ...model.compare(name, found));
    if (!options.indexEnabled) continue;
    for (const [key, samples] of [...found].slice(0, 2))
      wrong.push(...(await checkIndex(engine, name, key, samples)));
  }
  return wrong;
}

/** A series is found by each of its labels, and has the same samples. */
async function checkIndex(
  engine: StorageEngine,
  namespace: string,
  key: string,
  samples: ReadonlyMap<bigint, bigint>,
): Promise<string[]> {
  const wrong: string[] = [];
  const times = [...samples.keys()];
  const range = { startNs: times[0] ?? 0n, endNs: (times.at(-1) ?? 0n) + 1n };
  const matchers = labelsOf(key).map(([name, value]) => labelMatcher(name, '=', value));
  for (const matcher of matchers) {
    const { values } = await engine.series(namespace, { selectors: [[matcher]], ...range });
    if (!values.some((labels) => keyOf(labels) === key)) {
      wrong.push(`${namespace} ${key} is not found by ${matcher.name}`);
    }
  }
  let count = 0;
  for await (const series of engine.read(namespace, { matchers, ...range })) {
    for await (const { times: some } of series.batches) count += some.length;
  }
  if (count !== samples.size) {
    wrong.push(`${namespace} ${key} has ${samples.size} samples, and ${count} when it is asked for alone`);
  }
  return wrong;
}

/** A change of namespaces that was not acknowledged has happened or it has not. */
function settleNamespaces(engine: StorageEngine, model: Model): string[] {
  const inForce = engine.namespaces();
  const isInForce = (wanted: readonly { name: string }[]): boolean =>
    wanted.length === inForce.length &&
    wanted.every((options) =>
      inForce.some((other) => sameNamespace(other, options as (typeof inForce)[number])),
    );
  const before = [...model.namespaces.values()].map(({ options }) => options);
  const { pendingNamespaces: pending } = model;
  // One that failed may be carried out by the next start still.
  if (isInForce(before)) return [];
  if (pending && isInForce(pending.wanted)) {
    model.setNamespaces(pending.wanted);
    model.pendingNamespaces = undefined;
    return [];
  }
  const names = (list: readonly { name: string }[]): string => list.map(({ name }) => name).join(', ');
  return [`the namespaces are ${names(inForce)}, not ${names(before)}, or their options differ`];
}
