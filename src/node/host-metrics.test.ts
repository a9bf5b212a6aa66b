import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  parseCpu,
  parseDisks,
  parseLoad,
  parseMemory,
  parseNetwork,
  type Reading,
} from './host-metrics-proc.ts';
import { hostSampler } from './host-metrics-sampler.ts';

const STAT = `cpu  11958 1 5375 303243 652 0 115 14 0 0
cpu0 5407 0 2438 152775 49 0 32 6 0 0
cpu12 6551 0 2937 150467 602 0 82 7 0 0
intr 923200 0 0 1 14
ctxt 2127957
btime 1700000000
softirq 100 1 2
`;

const MEMINFO = `MemTotal:       24684084 kB
MemFree:        24176200 kB
MemAvailable:   24249080 kB
SwapCached:            0 kB
HugePages_Total:       0
Dirty:                12 kB
`;

const DISKSTATS = `   7       0 loop0 55 0 100 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 259       0 nvme0n1 1000 5 80000 300 2000 7 160000 900 3 1200 1200 0 0 0 0 0 0
   8       0 sda 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 254       1 dm-1 10 0 80 1 0 0 0 0 0 4 4
`;

const NET_DEV = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:   56990     540    0    0    0     0          0         0    56990     540    0    0    0     0       0          0
  ifb0:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
eth0:123456789 1000 1 2 0 0 0 0 987654321 2000 3 4 0 0 0 0
`;

/** `metric{labels} value`, as far as \`only\` says. */
function shown(readings: Reading[], only = ''): string[] {
  return readings
    .map(({ metric, labels, value }) => `${metric}{${Object.values(labels).join(',')}} ${value}`)
    .filter((line) => line.includes(only));
}

describe('of /proc', () => {
  test('stat gives seconds for every core and all together, by mode', () => {
    expect(parseCpu(STAT)).toHaveLength(3 * 8);
    expect(shown(parseCpu(STAT), '{12,')).toEqual([
      'cpu_seconds_total{12,user} 65.51',
      'cpu_seconds_total{12,nice} 0',
      'cpu_seconds_total{12,system} 29.37',
      'cpu_seconds_total{12,idle} 1504.67',
      'cpu_seconds_total{12,iowait} 6.0200000000000005',
      'cpu_seconds_total{12,irq} 0',
      'cpu_seconds_total{12,softirq} 0.8200000000000001',
      'cpu_seconds_total{12,steal} 0.07',
    ]);
    expect(shown(parseCpu(STAT), '{all,user}')).toEqual(['cpu_seconds_total{all,user} 119.58']);
  });

  test('meminfo gives bytes', () => {
    expect(shown(parseMemory(MEMINFO))).toEqual([
      'memory_bytes{total} 25276502016',
      'memory_bytes{free} 24756428800',
      'memory_bytes{available} 24831057920',
      'memory_bytes{dirty} 12288',
    ]);
  });

  test('loadavg gives load and processes', () => {
    expect(shown(parseLoad('0.13 0.25 0.10 1/85 9916\n'))).toEqual([
      'load{1} 0.13',
      'load{5} 0.25',
      'load{15} 0.1',
      'processes{running} 1',
      'processes{all} 85',
    ]);
  });

  test('diskstats leaves out loop devices and what was never used', () => {
    const readings = parseDisks(DISKSTATS);
    expect(new Set(readings.map(({ labels }) => labels['device']))).toEqual(new Set(['nvme0n1', 'dm-1']));
    expect(shown(readings, 'nvme0n1')).toEqual([
      'disk_reads_total{nvme0n1} 1000',
      'disk_read_bytes_total{nvme0n1} 40960000',
      'disk_writes_total{nvme0n1} 2000',
      'disk_written_bytes_total{nvme0n1} 81920000',
      'disk_io_in_progress{nvme0n1} 3',
      'disk_io_seconds_total{nvme0n1} 1.2',
    ]);
  });

  test('net/dev leaves out idle interfaces and reads a figure that touches the colon', () => {
    const readings = parseNetwork(NET_DEV);
    expect(new Set(readings.map(({ labels }) => labels['device']))).toEqual(new Set(['lo', 'eth0']));
    expect(shown(readings, 'eth0').map((line) => line.replace('network_', ''))).toEqual([
      'receive_bytes_total{eth0} 123456789',
      'receive_packets_total{eth0} 1000',
      'receive_errors_total{eth0} 1',
      'receive_drops_total{eth0} 2',
      'transmit_bytes_total{eth0} 987654321',
      'transmit_packets_total{eth0} 2000',
      'transmit_errors_total{eth0} 3',
      'transmit_drops_total{eth0} 4',
    ]);
  });

  test.each([
    ['cpu', parseCpu('cpu0 x -1 1e5\ncpux 1 2 3\n')],
    ['memory', parseMemory('MemTotal: 5 MB\nMemFree:\n')],
    ['load', parseLoad('')],
    ['disks', parseDisks('8 0\n\nnonsense\n')],
    ['network', parseNetwork('eth0\neth1: \neth2: abc\n')],
  ])('malformed lines give no reading: %s', (_, readings) => {
    expect(readings).toEqual([]);
  });
});

test('a machine whose /proc lacks files gives the other readings', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'varve-test-proc-'));
  try {
    await mkdir(join(folder, 'net'));
    await writeFile(join(folder, 'stat'), STAT);
    await writeFile(join(folder, 'net', 'dev'), NET_DEV);
    const sampler = await hostSampler(folder);
    expect(sampler.limitation).toBeUndefined();
    expect(new Set((await sampler.sample()).map(({ metric }) => metric.split('_')[0]))).toEqual(
      new Set(['cpu', 'network']),
    );
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('a machine without /proc says what it leaves out and still gives readings', async () => {
  const sampler = await hostSampler('/does-not-exist');
  expect(sampler.limitation).toContain('only CPU, memory and load');
  const metrics = new Set((await sampler.sample()).map(({ metric }) => metric));
  expect(metrics).toEqual(new Set(['cpu_seconds_total', 'load', 'memory_bytes']));
});
