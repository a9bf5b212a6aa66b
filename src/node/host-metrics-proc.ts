/**
 * Readings of a Linux machine, from the text of files under /proc. Pure: text in, readings out. Counters are
 * passed on as they are (they only grow, so rates can be made for any window), gauges in base units.
 * A line that does not look as documented in proc(5) is left out rather than guessed at.
 */
export interface Reading {
  readonly metric: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const CPU_MODES = ['user', 'nice', 'system', 'idle', 'iowait', 'irq', 'softirq', 'steal'];
/** proc(5): all times are in USER_HZ, which the kernel fixes at 100 on every architecture that Node runs on. */
const TICKS_PER_SECOND = 100;
/** Documentation/admin-guide/iostats: always 512, whatever the device's own. */
const SECTOR_BYTES = 512;

/** /proc/stat: `cpu` is `all`, or the number of a core. */
export function parseCpu(text: string): Reading[] {
  return lines(text).flatMap((fields) => {
    const [, core] = /^cpu(\d*)$/.exec(fields[0] ?? '') ?? [];
    if (core === undefined) return [];
    return CPU_MODES.flatMap((mode, i) =>
      reading(
        'cpu_seconds_total',
        { cpu: core === '' ? 'all' : core, mode },
        fields[i + 1],
        1 / TICKS_PER_SECOND,
      ),
    );
  });
}

const MEMORY = new Map([
  ['MemTotal', 'total'],
  ['MemFree', 'free'],
  ['MemAvailable', 'available'],
  ['Buffers', 'buffers'],
  ['Cached', 'cached'],
  ['Dirty', 'dirty'],
  ['Writeback', 'writeback'],
  ['SwapTotal', 'swap_total'],
  ['SwapFree', 'swap_free'],
]);

/** /proc/meminfo */
export function parseMemory(text: string): Reading[] {
  return lines(text).flatMap((fields) => {
    const kind = MEMORY.get((fields[0] ?? '').replace(/:$/, ''));
    return kind !== undefined && fields[2] === 'kB' ? reading('memory_bytes', { kind }, fields[1], 1024) : [];
  });
}

/** /proc/loadavg */
export function parseLoad(text: string): Reading[] {
  const [one, five, fifteen, processes] = lines(text)[0] ?? [];
  const [running, all] = (processes ?? '').split('/');
  return [
    ...reading('load', { minutes: '1' }, one),
    ...reading('load', { minutes: '5' }, five),
    ...reading('load', { minutes: '15' }, fifteen),
    ...reading('processes', { state: 'running' }, running),
    ...reading('processes', { state: 'all' }, all),
  ];
}

const DISK_FIELDS: readonly (readonly [index: number, metric: string, factor: number])[] = [
  [3, 'disk_reads_total', 1],
  [5, 'disk_read_bytes_total', SECTOR_BYTES],
  [7, 'disk_writes_total', 1],
  [9, 'disk_written_bytes_total', SECTOR_BYTES],
  [11, 'disk_io_in_progress', 1],
  [12, 'disk_io_seconds_total', 1 / 1000],
];

/** /proc/diskstats: devices that have ever been used, without those that live in memory or in a file. */
export function parseDisks(text: string): Reading[] {
  return lines(text).flatMap((fields) => {
    const device = fields[2];
    if (device === undefined || /^(loop|ram|zram)\d/.test(device)) return [];
    if (fields[3] === '0' && fields[7] === '0') return [];
    return DISK_FIELDS.flatMap(([index, metric, factor]) =>
      reading(metric, { device }, fields[index], factor),
    );
  });
}

const NETWORK_FIELDS: readonly (readonly [index: number, metric: string])[] = [
  [0, 'network_receive_bytes_total'],
  [1, 'network_receive_packets_total'],
  [2, 'network_receive_errors_total'],
  [3, 'network_receive_drops_total'],
  [8, 'network_transmit_bytes_total'],
  [9, 'network_transmit_packets_total'],
  [10, 'network_transmit_errors_total'],
  [11, 'network_transmit_drops_total'],
];

/** /proc/net/dev: interfaces that have carried something. */
export function parseNetwork(text: string): Reading[] {
  return text.split('\n').flatMap((line) => {
    // The first figure may stand right behind the colon.
    const [, device, figures] = /^\s*([^\s:|]+):\s*(\d.*)$/.exec(line) ?? [];
    if (device === undefined || figures === undefined) return [];
    const fields = figures.trim().split(/\s+/);
    if (fields[0] === '0' && fields[8] === '0') return [];
    return NETWORK_FIELDS.flatMap(([index, metric]) => reading(metric, { device }, fields[index]));
  });
}

function lines(text: string): string[][] {
  return text
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[0] !== '');
}

function reading(
  metric: string,
  labels: Readonly<Record<string, string>>,
  figure: string | undefined,
  factor = 1,
): Reading[] {
  if (figure === undefined || !/^\d+(\.\d+)?$/.test(figure)) return [];
  return [{ metric, labels, value: Number(figure) * factor }];
}
