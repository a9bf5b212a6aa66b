import { expect, test } from 'vitest';
import { seedCount, SeededRandom } from '../../../test/seeded-random.ts';
import { VarveError } from '../../core/errors.ts';
import { decodeLabels } from '../index/labels.ts';
import { parseSelector } from '../index/selector.ts';
import { KernelFault } from '../kernel/kernel-fault.ts';
import { KernelHarness } from '../kernel/kernel-harness.suite.ts';
import {
  bytesField,
  encodeWriteRequest,
  encodeWriteRequest2,
  labelBytes,
} from '../kernel/remote-write.suite.ts';
import { canonicalLabels, walkWriteRequest } from '../kernel/remote-write.ts';
import { walkWriteRequest2 } from '../kernel/remote-write-2.ts';
import { decodeSnappy, encodeSnappy } from '../kernel/snappy.ts';
import { parseJsonSeries } from '../protocol/json-lines.ts';
import { parseLines } from '../protocol/line-protocol.ts';
import { namespaceFromSettings } from '../protocol/namespace-json.ts';
import { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { decodeReadRequest } from '../protocol/remote-read.ts';
import { parseDuration, parseTime } from '../protocol/time-text.ts';
import { mutate } from './mutate.suite.ts';

const SEEDS = seedCount(process.env['VARVE_SOAK'] ? 20_000 : 1500);

/** Ends with a result or with an error that its caller knows; anything else is a bug. */
function endsWell(what: string, run: () => unknown): void {
  try {
    run();
  } catch (error) {
    const known = error instanceof VarveError || error instanceof KernelFault;
    if (!known) throw new Error(`${what} met a bug`, { cause: error });
  }
}

/** Calls `run` with bytes near to the valid ones, `SEEDS` times. */
function fuzz(corpus: readonly Uint8Array[], run: (bytes: Buffer, what: string) => void): void {
  for (let seed = 0; seed < SEEDS; seed++) {
    const random = new SeededRandom(seed);
    const [one, other] = [corpus[random.below(corpus.length)], corpus[random.below(corpus.length)]];
    run(mutate(one ?? Buffer.alloc(0), other ?? Buffer.alloc(0), random), `seed ${seed}`);
  }
}

function fuzzText(corpus: readonly string[], run: (text: string, what: string) => void): void {
  fuzz(
    corpus.map((text) => Buffer.from(text)),
    (bytes, what) => run(bytes.toString(), what),
  );
}

const SERIES = [
  {
    labels: [
      ['__name__', 'http_requests_total'],
      ['host', 'a'.repeat(130)],
    ] as const,
    samples: [
      { ms: 1_700_000_000_000n, bits: 1n },
      { ms: 1_700_000_015_000n, bits: 0x7ff0_0000_0000_0002n },
    ],
  },
  { labels: [['__name__', 'up']] as const, samples: [{ ms: -1n, bits: 0n }] },
  { labels: [] as const, samples: [] },
];
const V1 = encodeWriteRequest(SERIES);
const V2 = encodeWriteRequest2(SERIES);
const LIMITS = { maxSeries: 50, maxSamples: 100, maxSymbols: 60, maxLabelBytes: 4096 };

test('remote write bodies: the kernel and its plain twin agree on whatever comes', () => {
  const harness = new KernelHarness();
  const outcome = (run: () => unknown): unknown => {
    try {
      return run();
    } catch (error) {
      if (error instanceof KernelFault) return 'refused';
      throw error;
    }
  };
  fuzz([V1, V2, bytesField(1, V1), Buffer.alloc(0)], (bytes, what) => {
    const first = outcome(() => harness.walkWriteRequest(bytes, LIMITS));
    expect(first, `${what}, 1.0`).toEqual(outcome(() => walkWriteRequest(bytes, LIMITS)));
    const second = outcome(() => harness.walkWriteRequest2(bytes, LIMITS));
    expect(second, `${what}, 2.0`).toEqual(outcome(() => walkWriteRequest2(bytes, LIMITS)));
  });
});

test('snappy blocks: the kernel and its plain twin agree on whatever comes, and write within their room', () => {
  const harness = new KernelHarness();
  const blocks = [V1, Buffer.alloc(70_000, 'ab'), new SeededRandom(1).bytes(300)].map(encodeSnappy);
  const outcome = (run: () => Uint8Array): string => {
    try {
      return Buffer.from(run()).toString('hex');
    } catch (error) {
      if (error instanceof KernelFault) return 'refused';
      throw error;
    }
  };
  fuzz(blocks, (bytes, what) => {
    const found = outcome(() => harness.decodeSnappy(bytes, 100_000));
    expect(found === outcome(() => decodeSnappy(bytes, 100_000)), what).toBe(true);
  });
});

test('a block that claims gigabytes costs no memory', () => {
  const kernel = new ProtocolKernel();
  const claims = [0xff, 0xff, 0xff, 0xff, 0x0f];
  const before = process.memoryUsage().arrayBuffers;
  for (let i = 0; i < 200; i++) {
    expect(() => kernel.decodeSnappy(Buffer.from([...claims, i]))).toThrow(KernelFault);
    expect(() => decodeSnappy(Buffer.from([...claims, i]), 1 << 20)).toThrow(KernelFault);
  }
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(32 << 20);
});

function varintField(number: number, value: number): Uint8Array {
  return Buffer.from([number * 8, value]);
}

const MATCHER = bytesField(
  3,
  Buffer.concat([varintField(1, 2), bytesField(2, Buffer.from('job')), bytesField(3, Buffer.from('a|b.*'))]),
);
const READ_REQUEST = Buffer.concat([
  bytesField(1, Buffer.concat([varintField(1, 100), varintField(2, 120), MATCHER, MATCHER])),
  bytesField(2, Buffer.from([1, 0])),
]);

test('remote read requests end with queries or with a refusal', () => {
  const kernel = new ProtocolKernel();
  fuzz([READ_REQUEST, MATCHER, V1], (bytes, what) => {
    endsWell(what, () => decodeReadRequest(kernel, encodeSnappy(bytes)));
  });
  fuzz([encodeSnappy(READ_REQUEST)], (bytes, what) => endsWell(what, () => decodeReadRequest(kernel, bytes)));
});

test('labels: canonical bytes stay what they are, all others are refused or made canonical', () => {
  const labels = labelBytes([
    ['__name__', 'up'],
    ['host', 'ä'],
  ]);
  fuzz([labels, labelBytes([['a', 'b'.repeat(200)]])], (bytes, what) => {
    endsWell(what, () => decodeLabels(bytes));
    endsWell(what, () => {
      const canonical = canonicalLabels(bytes);
      expect(canonicalLabels(canonical), what).toEqual(canonical);
    });
  });
});

test('line protocol: every line is taken or told', () => {
  const lines = [
    'cpu,host=a\\ b,zone=c usage=1.5,idle=2i,up=t,text="a \\" b" 1700000000000000000\n# comment\n\nmem free=1u\n',
    'weird\\,name,ta\\=g=v\\,alue f\\ ield=-1e-9 1\r\nx y="unterminated\n',
    'a b=1,c=2 -9223372036854775808\na b=+.5e+10 9223372036854775807',
  ];
  fuzzText(lines, (text, what) => {
    endsWell(what, () => {
      let samples = 0;
      for (const part of parseLines(text, { unitNs: 1_000_000n, nowNs: 0n })) {
        samples += part.samples;
        for (const { labels } of part.series) expect(labels[0]?.[0], what).toBe('__name__');
        for (const { line } of part.errors) expect(line, what).toBeGreaterThan(0);
      }
      expect(samples, what).toBeLessThanOrEqual(text.length);
    });
  });
});

test('lines of JSON end with samples or with a refusal', () => {
  const lines = [
    '{"metric":{"__name__":"up","job":"node"},"values":[1,0.5,"NaN","NaN:7ff0000000000002","-Inf"],"timestamps":[1,2,3,4,5]}',
    '{"metric":{},"values":[-0,1e308],"timestampsNs":["-9223372036854775808","1"]}',
  ];
  fuzzText(lines, (text, what) =>
    endsWell(what, () => {
      for (const { timeNs } of parseJsonSeries(text).samples) {
        expect(BigInt.asIntN(64, timeNs), what).toBe(timeNs);
      }
    }),
  );
});

test('selectors end with matchers or with a refusal that names a place', () => {
  const texts = [
    'http_requests_total{job=~"a|b.*",host!="\\u00e4\\"",le!~`x[0-9]+`} # end',
    '{"metric.name","label"=\'v\\x41\',__name__=~"(a|b)+?"}',
    'a{b="c",}',
  ];
  fuzzText(texts, (text, what) => endsWell(what, () => parseSelector(text)));
});

test('settings of namespaces, times and durations end with a value or with a refusal', () => {
  fuzzText(['{"retention":"30d","blockSize":"2h","maxSeries":5,"coldWritesEnabled":true}'], (text, what) => {
    endsWell(what, () => {
      let settings: unknown;
      try {
        settings = JSON.parse(text);
      } catch {
        return;
      }
      namespaceFromSettings('fuzz', settings);
    });
  });
  fuzzText(['1700000000.123', '2026-01-01T00:00:00.5Z', '1h30m', '-5', '1e9'], (text, what) => {
    endsWell(what, () => parseTime('start', text));
    endsWell(what, () => parseDuration(text));
  });
});

test('long inputs of the worst kind take no more than their length', () => {
  const long = 200_000;
  const worst = ['\\', '"', '{', ',', '=', ' ', '0', 'a,', 'a=', '\\"', 'a b=1,', '#', '\n', '(', '[['];
  for (const part of worst) {
    const text = part.repeat(Math.floor(long / part.length));
    const what = JSON.stringify(part);
    endsWell(what, () => [...parseLines(text, { unitNs: 1n, nowNs: 0n })]);
    endsWell(what, () => [...parseLines(`m,${text}`, { unitNs: 1n, nowNs: 0n })]);
    endsWell(what, () => parseJsonSeries(`{"metric":{"a":"${text}`));
    endsWell(what, () => parseSelector(text));
    endsWell(what, () => parseSelector(`{a="${text}`));
    endsWell(what, () => parseSelector(`{a=~"${text.slice(0, 2000).replaceAll(/["\\]/g, '.')}"}`));
    endsWell(what, () => parseTime('start', text));
    endsWell(what, () => parseDuration(text));
  }
});
