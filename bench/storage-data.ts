/**
 * Seeded data sets for measuring storage: A is a middling fleet over three hours, B few series for long, C many
 * series for a short while. A host has a hundred series, sampled every 15 s at an offset of its own; one host
 * in sixteen is sampled with milliseconds of jitter. A tenth of the series are full-precision doubles.
 */
export interface DataSet {
  readonly name: string;
  readonly series: number;
  readonly samplesPerSeries: number;
}

export const DATA_SETS = {
  A: { name: 'A', series: 20_000, samplesPerSeries: 720 },
  B: { name: 'B', series: 2_000, samplesPerSeries: 7_200 },
  C: { name: 'C', series: 500_000, samplesPerSeries: 12 },
} as const satisfies Record<string, DataSet>;

export const STEP_MS = 15_000;
const START_MS = 1_700_006_400_000;
const SERIES_PER_HOST = 100;

/** A small generator with 32 bits of state (mulberry32): the same numbers on every machine. */
export function randomOf(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The sum of four uniform numbers: bell-shaped, mean 0, from -1 to 1, no transcendental function. */
function bell(random: () => number): number {
  return (random() + random() + random() + random()) / 2 - 1;
}

export function hostOf(series: number): number {
  return Math.floor(series / SERIES_PER_HOST);
}

/** A smaller data set of the same kind, for trying out: fewer series, or for B, which has few, fewer samples. */
export function scaled(set: DataSet, scale: number): DataSet {
  if (scale === 1) return set;
  if (set.name === 'B') {
    return { ...set, samplesPerSeries: Math.max(1, Math.round(set.samplesPerSeries * scale)) };
  }
  const hosts = Math.max(1, Math.round((set.series * scale) / SERIES_PER_HOST));
  return { ...set, series: hosts * SERIES_PER_HOST };
}

/** Milliseconds since the Unix epoch, the same for all series of a host. */
export function timesOf(set: DataSet, series: number, startMs = START_MS): Float64Array {
  const host = hostOf(series);
  const random = randomOf(host * 7919 + 17);
  const offset = Math.floor(random() * STEP_MS);
  const jitters = host % 16 === 5;
  return Float64Array.from({ length: set.samplesPerSeries }, (_, i) => {
    return startMs + offset + i * STEP_MS + (jitters ? Math.floor(random() * 11) - 5 : 0);
  });
}

type Walk = (previous: number, random: () => number) => number;

const counter =
  (rate: number, spread: number): Walk =>
  (previous, random) =>
    previous + Math.max(0, Math.round(rate + bell(random) * spread));

const gauge =
  (decimals: number, spread: number): Walk =>
  (previous, random) => {
    const scale = 10 ** decimals;
    return Math.round((previous + bell(random) * spread) * scale) / scale;
  };

interface Kind {
  readonly name: string;
  /** How many of a host's hundred series. */
  readonly share: number;
  readonly start: (random: () => number) => number;
  readonly next: Walk;
}

const KINDS: readonly Kind[] = [
  {
    name: 'node_load_ratio',
    share: 10,
    start: (random) => random() * 4,
    next: (v, random) => Math.abs(v + bell(random) * 0.2),
  },
  {
    name: 'node_filesystem_size_bytes',
    share: 12,
    start: (random) => Math.floor(random() * 2 ** 28) * 4096,
    next: (v) => v,
  },
  { name: 'up', share: 12, start: () => 1, next: (v) => v },
  {
    name: 'node_network_carrier_changes_total',
    share: 6,
    start: (random) => Math.floor(random() * 100),
    next: (v, random) => (random() < 0.01 ? v + 1 : v),
  },
  { name: 'process_open_fds', share: 8, start: (random) => Math.floor(random() * 200), next: gauge(0, 4) },
  {
    name: 'http_requests_total',
    share: 14,
    start: (random) => Math.floor(random() * 1e6),
    next: counter(40, 20),
  },
  {
    name: 'node_context_switches_total',
    share: 8,
    start: (random) => Math.floor(random() * 1e9),
    next: counter(20_000, 3_000),
  },
  {
    name: 'node_network_receive_bytes_total',
    share: 6,
    start: (random) => Math.floor(random() * 1e12),
    next: counter(2e6, 6e5),
  },
  {
    name: 'node_cpu_seconds_total',
    share: 8,
    start: (random) => Math.floor(random() * 1e7) / 100,
    next: (v, random) => Math.round((v + Math.max(0, 6 + bell(random) * 4)) * 100) / 100,
  },
  {
    name: 'node_hwmon_temp_celsius',
    share: 4,
    start: (random) => 40 + Math.floor(random() * 300) / 10,
    next: gauge(1, 0.8),
  },
  {
    name: 'container_cpu_usage_percent',
    share: 4,
    start: (random) => Math.floor(random() * 10_000) / 100,
    next: gauge(2, 3),
  },
  {
    name: 'process_resident_memory_bytes',
    share: 8,
    start: (random) => Math.floor(random() * 2 ** 18) * 4096,
    next: (v, random) => Math.max(0, v + Math.round(bell(random) * 60) * 4096),
  },
];

const KIND_OF: readonly Kind[] = KINDS.flatMap((kind) => Array.from({ length: kind.share }, () => kind));

function kindOf(series: number): Kind {
  const kind = KIND_OF[series % SERIES_PER_HOST];
  if (kind === undefined) throw new Error(`no kind for series ${series}`);
  return kind;
}

export function valuesOf(set: DataSet, series: number): Float64Array {
  const random = randomOf(series * 104_729 + 3);
  const { start, next } = kindOf(series);
  let value = start(random);
  return Float64Array.from({ length: set.samplesPerSeries }, (_, i) =>
    i === 0 ? value : (value = next(value, random)),
  );
}

/** Eight labels, sorted by name, 168 bytes in a request on average. */
export function labelsOf(series: number): [string, string][] {
  const host = hostOf(series);
  const place = series % SERIES_PER_HOST;
  const zone = `${'abc'[host % 3]}`;
  return [
    ['__name__', kindOf(series).name],
    ['cluster', `west1-${zone}`],
    ['device', `dev-${String(place).padStart(2, '0')}`],
    ['env', 'production'],
    ['instance', `host-${String(host).padStart(5, '0')}:9100`],
    ['job', 'node'],
    ['team', `infra-${host % 7}`],
    ['zone', `west1-${zone}`],
  ];
}
