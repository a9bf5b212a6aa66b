import { execFileSync } from 'node:child_process';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { RunEvents } from '../run/events.ts';
import { EventFeed } from './event-feed.ts';
import { httpApp } from './http-app.ts';
import { serveHttp, type HttpServer } from './http-server.ts';
import { nodeMetrics } from './node-metrics.ts';
import type { StorageMap } from './storage-map.ts';
import type { DashboardView } from './system-view.ts';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];
const BROWSER = process.env['VARVE_CHROMIUM_BIN'] ?? NAMES.map(onPath).find((found) => found !== undefined);
const SKIPPED = 'the dashboard in a browser: set VARVE_CHROMIUM_BIN or put chromium on PATH';
if (BROWSER === undefined) {
  if (process.env['VARVE_REQUIRE_SERVICES'] === '1') throw new Error('chromium is required here');
  process.stderr.write(`SKIPPED: ${SKIPPED}\n`);
}

const node = (name: string, more: object = {}): object => ({
  name,
  kind: 'data',
  role: null,
  term: null,
  state: 'ready',
  step: null,
  waitingFor: null,
  reasons: [],
  pid: 1,
  startedAt: '2026-01-01T00:00:00.000Z',
  postgres: null,
  storage: null,
  http: 'http://127.0.0.1:1',
  ...more,
});

const WHOLE = {
  nodes: [node('an1', { kind: 'access', role: 'write master', term: 3 }), node('dn1')],
  dataNodes: [],
  namespaces: [],
  shards: [],
  runs: [],
  group: null,
};

/** A bootstrap that an operator has helped. */
const GIVEN_UP = {
  state: 'done',
  progress: null,
  interventions: [{ at: '2026-01-01T00:00:00Z', by: 'eve', what: 'gave up shard 3' }],
};

const instance = (name: string, state: string, source: string | null): object => ({
  node: name,
  namespace: 'default',
  state,
  source,
});

const TROUBLED = {
  ...WHOLE,
  nodes: [
    ...WHOLE.nodes,
    node('dn2', { state: 'starting', step: 'start-server', waitingFor: 'the coordinator' }),
    node('<b>dn3</b>', { state: 'unreachable', reasons: ['it does not answer'] }),
  ],
  namespaces: [{ name: 'default', settings: {}, nodes: [{ node: 'dn1', series: 12_345, openSamples: 7 }] }],
  shards: [
    { id: 0, instances: [instance('dn1', 'bootstrapped', 'fs'), instance('dn2', 'bootstrapping', null)] },
    { id: 1, instances: [instance('dn1', 'bootstrapped', 'fs+peers')] },
  ],
  runs: [
    {
      run: 'bring-up',
      node: 'dn2',
      state: 'running',
      step: 'copy',
      startedAt: '2026-01-01T00:00:00.000Z',
      done: 3,
      total: 4,
      unit: 'files',
      etaMs: 65_000,
      detail: null,
      waitingFor: null,
      error: null,
    },
  ],
};

describe.skipIf(BROWSER === undefined)('the dashboard in a browser', () => {
  let browser: Browser;
  const stop = new AbortController();
  let feed: EventFeed;
  let server: HttpServer;
  let page: Page;
  let system: object = WHOLE;
  let maps: readonly StorageMap[] = [];
  let complaints: string[] = [];
  let foreign: string[] = [];

  beforeAll(async () => {
    const events = new RunEvents();
    const status = (): never => {
      throw new Error('the page asks for the system only');
    };
    feed = new EventFeed(events, { epoch: 'e' });
    const app = httpApp({
      status,
      system: () => Promise.resolve(system as DashboardView),
      maps: () => Promise.resolve(maps),
      feed,
      metrics: nodeMetrics(events, status),
      onBug: (error) => complaints.push(String(error)),
      signal: stop.signal,
    });
    server = await serveHttp(app, { port: 0 });
    browser = await chromium.launch({ executablePath: BROWSER as string, args: ['--no-sandbox'] });
  });

  afterAll(async () => {
    await browser?.close();
    stop.abort();
    feed[Symbol.dispose]();
    await server[Symbol.asyncDispose]();
  });

  beforeEach(async () => {
    complaints = [];
    foreign = [];
    maps = [];
    await page?.close();
    page = await browser.newPage();
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('request', (request) => request.url().startsWith(server.url) || foreign.push(request.url()));
  });

  const open = async (shown: object): Promise<void> => {
    system = shown;
    await page.goto(server.url);
    await page.waitForFunction(`document.querySelector('#nodes table') !== null`);
  };

  test('says in a line that all is well, and asks nobody but its node', async () => {
    await open(WHOLE);
    expect(await page.textContent('#summary')).toBe('2 of 2 nodes ready; write master an1, term 3');
    expect(await page.isVisible('section.trouble')).toBe(false);
    expect(await page.isVisible('#shards')).toBe(false);
    expect(complaints).toEqual([]);
    expect(foreign).toEqual([]);
  });

  test('puts first what somebody has to look at, and takes no name for markup', async () => {
    await open(TROUBLED);
    expect(await page.locator('#trouble li').allTextContents()).toEqual([
      'dn2 is starting: start-server: waiting for the coordinator',
      '<b>dn3</b> is unreachable: it does not answer',
    ]);
    expect(await page.locator('#runs progress').getAttribute('title')).toBe('3 of 4 files, 1 min 5 s left');
    expect(await page.textContent('#namespaces')).toContain('12,345');
    expect(complaints).toEqual([]);
  });

  const rowsOf = (page_: Page): Promise<string[][]> =>
    page_
      .locator('#shards .map tr')
      .evaluateAll((rows) =>
        rows.map((row) =>
          [
            ...(row as unknown as { cells: { textContent: string; className: string; title: string }[] })
              .cells,
          ].map(({ textContent, className, title }) =>
            [textContent, className, title].filter(Boolean).join('|'),
          ),
        ),
      );

  test('draws the shards of each node by where their data came from', async () => {
    await open(TROUBLED);
    expect(await rowsOf(page)).toEqual([
      ['dn1', 'cell fs|shard 0: from files', 'cell mixed|shard 1: from several (fs+peers)'],
      ['dn2', 'cell bootstrapping|shard 0: being filled', 'shard 1: not here'],
    ]);
  });

  test('draws each range of time where it is known, the newest first', async () => {
    const band = (day: number, sources: object[]): object => ({
      start: `2026-01-0${day}T00:00:00.000Z`,
      end: `2026-01-0${day + 1}T00:00:00.000Z`,
      sources,
    });
    const older = band(1, [{ source: 'fs', shards: [0, 1] }]);
    const newer = band(2, [
      { source: 'peers', shards: [0] },
      { source: null, shards: [1] },
    ]);
    maps = [{ node: 'dn1', namespaces: [{ name: 'default', bands: [newer, older] }] }] as StorageMap[];
    await open(TROUBLED);
    await page.waitForFunction(`document.querySelectorAll('#shards .map tr').length === 3`);
    expect(await rowsOf(page)).toEqual([
      [
        'dn1',
        'Jan 2, 00:00|time',
        'cell peers|shard 0: from peers',
        'cell nobody|shard 1: nobody has it yet',
      ],
      ['Jan 1, 00:00|time', 'cell fs|shard 0: from files', 'cell fs|shard 1: from files'],
      ['dn2', 'now|time', 'cell bootstrapping|shard 0: being filled', 'shard 1: not here'],
    ]);
  });

  test('shows which shards are on their way to a node that was added, how far it is, and for whom it waits', async () => {
    const unfulfilled = [
      { namespace: 'default', shard: 3, reason: 'consistencyNotMet', detail: 'dn2: no answer' },
    ];
    const bootstrap = {
      state: 'running',
      progress: '3/10 shards · 30%',
      tookMs: null,
      sources: [],
      error: null,
    };
    const storage = { state: 'bootstrapping', reason: null, memory: null, log: null };
    const of = (initializing: number, available: number, leaving: number): object => ({
      initializing,
      available,
      leaving,
    });
    await open({
      ...WHOLE,
      nodes: [
        ...WHOLE.nodes,
        node('dn4', { storage: { ...storage, bootstrap: { ...bootstrap, unfulfilled } } }),
        node('dn5', { storage: { ...storage, bootstrap: { ...bootstrap, ...GIVEN_UP } } }),
      ],
      placement: {
        instances: [
          { node: 'dn1', isLeaving: true, shards: of(0, 0, 16) },
          { node: 'dn4', isLeaving: false, shards: of(1024, 16, 0) },
        ],
      },
    });
    const rows = await page.locator('#placement tbody tr').allTextContents();
    expect(rows).toEqual(['dn1016is being taken out', 'dn4161,024']);
    const engines = await page.textContent('#engines');
    expect(engines).toContain('running: 3/10 shards · 30%');
    expect(engines).toContain('done; 2026-01-01T00:00:00Z: eve gave up shard 3');
    expect(await page.locator('#trouble li').allTextContents()).toEqual([
      'dn4: shard 3 of default waits: consistencyNotMet, dn2: no answer',
    ]);
    expect(complaints).toEqual([]);
  });

  test('follows what changes, and says when nobody answers any more', async () => {
    await open(TROUBLED);
    system = WHOLE;
    await page.waitForFunction(`document.querySelector('section.trouble').hidden`);
    await page.route('**/api/system', (route) => route.abort());
    await page.waitForFunction(`document.querySelector('#summary').textContent.startsWith('no answer')`);
    expect(await page.isVisible('#nodes table')).toBe(true);
  });
});

function onPath(name: string): string | undefined {
  try {
    return execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim();
  } catch {
    return undefined;
  }
}
