import { readFile } from 'node:fs/promises';
import { cpus, freemem, loadavg, totalmem } from 'node:os';
import {
  parseCpu,
  parseDisks,
  parseLoad,
  parseMemory,
  parseNetwork,
  type Reading,
} from './host-metrics-proc.ts';

/** Reads the machine once. */
export interface HostSampler {
  /** Where the figures come from, for people; undefined when nothing is missing. */
  readonly limitation: string | undefined;
  sample(): Promise<Reading[]>;
}

const FILES: readonly (readonly [path: string, parse: (text: string) => Reading[]])[] = [
  ['stat', parseCpu],
  ['meminfo', parseMemory],
  ['loadavg', parseLoad],
  ['diskstats', parseDisks],
  ['net/dev', parseNetwork],
];

/**
 * From /proc where there is one, else what Node knows of the machine. A file that cannot be read (containers
 * hide some) leaves its readings out.
 */
export async function hostSampler(procFolder = '/proc'): Promise<HostSampler> {
  const hasProc = await readFile(`${procFolder}/stat`).then(
    () => true,
    () => false,
  );
  if (!hasProc) {
    return {
      limitation: `there is no ${procFolder} here: only CPU, memory and load are recorded`,
      sample: () => Promise.resolve(nodeReadings()),
    };
  }
  return {
    limitation: undefined,
    sample: async () => {
      const readings = await Promise.all(
        FILES.map(async ([name, parse]) =>
          parse(await readFile(`${procFolder}/${name}`, 'utf8').catch(() => '')),
        ),
      );
      return readings.flat();
    },
  };
}

/** Under the same names as those of /proc. */
function nodeReadings(): Reading[] {
  const cores = cpus().flatMap(({ times }, core) =>
    Object.entries({
      user: times.user,
      nice: times.nice,
      system: times.sys,
      idle: times.idle,
      irq: times.irq,
    }).map(([mode, ms]) => ({
      metric: 'cpu_seconds_total',
      labels: { cpu: String(core), mode },
      value: ms / 1000,
    })),
  );
  const load = loadavg().map((value, i) => ({
    metric: 'load',
    labels: { minutes: ['1', '5', '15'][i] ?? '' },
    value,
  }));
  return [
    ...cores,
    ...load,
    { metric: 'memory_bytes', labels: { kind: 'total' }, value: totalmem() },
    { metric: 'memory_bytes', labels: { kind: 'free' }, value: freemem() },
  ];
}
