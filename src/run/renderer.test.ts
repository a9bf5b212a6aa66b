import { describe, expect, test } from 'vitest';
import { applyEvent, emptyBoard } from './board.ts';
import { bytesText, durationText, progressText } from './figures.ts';
import { jsonRenderer } from './json-renderer.ts';
import { PlainLines, plainRenderer } from './plain-renderer.ts';
import type { RunEvent } from './step.ts';
import { ansiPaint, TerminalLines, TerminalRenderer } from './terminal-renderer.ts';

const start = Date.UTC(2026, 0, 2, 3, 4, 5);
const at = (seconds: number): number => start + seconds * 1000;

function event(
  seconds: number,
  step: string,
  state: RunEvent['state'],
  more: Partial<RunEvent> = {},
): RunEvent {
  return { run: 'bring-up', node: 'dn1', step, state, atMs: at(seconds), ...more };
}

const error = { code: 'INVALID_ARGUMENT', sqlstate: '22023', message: 'the disk is full' } as const;

const good: RunEvent[] = [
  event(0, '', 'running'),
  event(0, 'init', 'checking'),
  event(0, 'init', 'skipped'),
  event(1, 'copy', 'checking'),
  event(1, 'copy', 'running', { detail: '10 files are missing' }),
  event(2, 'copy', 'running', { done: 0, total: 10, unit: 'files' }),
  event(4, 'copy', 'running', { done: 4, total: 10, unit: 'files' }),
  event(8, 'copy', 'running', { done: 9, total: 10, unit: 'files' }),
  event(9, 'copy', 'running', { waitingFor: 'dn2 until 03:05:00' }),
  event(10, 'copy', 'done'),
  event(10, '', 'done'),
];

const bad: RunEvent[] = [
  event(0, '', 'running'),
  event(0, 'copy', 'running'),
  event(3, 'copy', 'failed', {
    error: { ...error, detail: 'a\nb', hint: 'Make room.' },
    detail: error.message,
  }),
  event(3, '', 'failed', { detail: 'at copy' }),
];

const plain = (events: RunEvent[]): string[] => {
  const lines = new PlainLines();
  return events.flatMap((each) => lines.take(each)).map((line) => line.replace('2026-01-02T03:04:', ''));
};

describe('plain lines', () => {
  test('show what is done, how far it is at times, and every change of what is waited for', () => {
    expect(plain(good)).toEqual([
      '06.000Z dn1  bring-up: copy: 10 files are missing',
      '13.000Z dn1  bring-up: copy: 9/10 files · 90% · 1.5 files/s · 667 ms left',
      '14.000Z dn1  bring-up: copy: waiting for dn2 until 03:05:00',
      '15.000Z dn1  bring-up: copy done in 9.0 s',
      '15.000Z dn1  bring-up done in 10.0 s (steps: 1 done, 1 had nothing to do)',
    ]);
  });

  test('put detail and hint below a failure', () => {
    expect(plain(bad)).toEqual([
      '05.000Z dn1  bring-up: copy',
      '08.000Z dn1  bring-up: copy failed: the disk is full',
      '    a',
      '    b',
      '    hint: Make room.',
      '08.000Z dn1  bring-up failed at copy',
    ]);
  });

  test('do not repeat a line that says the same', () => {
    const same = [0, 10, 20].map((seconds) => event(seconds, 'copy', 'running', { waitingFor: 'dn2' }));
    expect(plain(same)).toHaveLength(1);
  });

  test('leave out pages that only refresh', () => {
    let written = '';
    const renderer = plainRenderer(
      (text) => (written += text),
      () => at(0),
    );
    renderer.page({ name: 'summary', lines: ['one'], data: {} });
    renderer.page({ name: 'summary', lines: ['two'], data: {}, refresh: true });
    renderer.note('warn', 'dn1', 'restarts');
    expect(written).toBe('one\n2026-01-02T03:04:05.000Z dn1  warn: restarts\n');
  });
});

describe('the terminal', () => {
  const lines = (events: RunEvent[]): { kept: string[]; live: (seconds: number) => string[] } => {
    const terminal = new TerminalLines((_, text) => text);
    const kept = events.flatMap((each) => terminal.take(each));
    return { kept, live: (seconds) => terminal.live(at(seconds)).map((line) => line.slice(2)) };
  };

  test.each<[string, number, number, string]>([
    ['a run that has begun', 1, 0, 'dn1  bring-up  0 ms'],
    ['a reason', 5, 2, 'dn1  copy  10 files are missing  1.0 s'],
    [
      'progress, speed and the time left',
      7,
      5,
      'dn1  copy  4/10 files · 40% · 2 files/s · 3.0 s left  4.0 s',
    ],
    ['what is waited for', 9, 9, 'dn1  copy  waiting for dn2 until 03:05:00  8.0 s'],
  ])('has one live line for a run: %s', (_, count, seconds, expected) => {
    expect(lines(good.slice(0, count)).live(seconds)).toEqual([expected]);
  });

  test('keeps one line when the run is done and none live', () => {
    const { kept, live } = lines(good);
    expect(kept).toEqual(['✔ dn1  bring-up done in 10.0 s (steps: 1 done, 1 had nothing to do)']);
    expect(live(11)).toEqual([]);
  });

  test('keeps reason, detail and hint of a failure', () => {
    const { kept, live } = lines(bad);
    expect(kept.map((line) => line.trim())).toEqual([
      '✘ dn1  copy: the disk is full',
      'a',
      'b',
      'hint: Make room.',
    ]);
    expect(live(4)).toEqual([]);
  });

  test('erases exactly what it drew before it draws again, and never more than fits the screen', () => {
    const written: string[] = [];
    const renderer = new TerminalRenderer({
      write: (text) => written.push(text),
      nowMs: () => at(0),
      size: () => ({ columns: 12, rows: 4 }),
      paint: ansiPaint,
    });
    renderer.event(event(0, '', 'running'));
    renderer.page({ name: 'summary', lines: ['a', 'b', 'c', 'd'], data: {} });
    renderer.note('info', 'up', 'hello');
    renderer.close();
    expect(written).toEqual([
      '⠋ dn1  brin\n',
      '\u001B[1A\u001B[0J⠋ dn1  brin\na\nb\n',
      '\u001B[3A\u001B[0J  up   hello\n⠋ dn1  brin\na\nb\n',
      '\u001B[3A\u001B[0Ja\nb\nc\nd\n',
    ]);
  });
});

test('JSON has one object a line with its type', () => {
  const written: string[] = [];
  const renderer = jsonRenderer(
    (text) => written.push(text),
    () => 7,
  );
  renderer.event(event(0, 'copy', 'running', { done: 1 }));
  renderer.note('error', 'dn1', 'gone');
  renderer.page({ name: 'summary', lines: ['x'], data: { nodes: [] } });
  expect(written.map((line) => JSON.parse(line) as unknown)).toEqual([
    { type: 'event', run: 'bring-up', node: 'dn1', step: 'copy', state: 'running', atMs: start, done: 1 },
    { type: 'note', atMs: 7, level: 'error', source: 'dn1', text: 'gone' },
    { type: 'summary', atMs: 7, nodes: [] },
  ]);
});

test('a run that is repeated starts a fresh row', () => {
  const board = [...bad, event(20, '', 'running')].reduce(applyEvent, emptyBoard);
  expect([...board.values()]).toEqual([
    expect.objectContaining({ runState: 'running', step: '', appliedCount: 0, startedAtMs: at(20) }),
  ]);
});

test.each([
  [durationText(999), '999 ms'],
  [durationText(59_900), '59.9 s'],
  [durationText(61_000), '1 min 1 s'],
  [durationText(3_660_000), '1 h 1 min'],
  [bytesText(1023), '1023 B'],
  [bytesText(1536), '1.5 KiB'],
  [bytesText(300 * 1024 ** 3), '300 GiB'],
  [progressText({}), ''],
  [progressText({ done: 0, total: 0 }), '0/0'],
  [progressText({ done: 5, unit: 'shards' }), '5 shards'],
  [
    progressText({ done: 1024, total: 2048, unit: 'bytes', ratePerSecond: 512, etaMs: 2000 }),
    '1.0 KiB/2.0 KiB · 50% · 512 B/s · 2.0 s left',
  ],
])('figures are short: %s', (shown, expected) => {
  expect(shown).toBe(expected);
});
