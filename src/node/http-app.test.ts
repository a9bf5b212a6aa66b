import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RunEvents } from '../run/events.ts';
import type { RunEvent } from '../run/step.ts';
import { EventFeed } from './event-feed.ts';
import { httpApp } from './http-app.ts';
import { serveHttp, type HttpServer } from './http-server.ts';
import { nodeMetrics } from './node-metrics.ts';
import { systemStatus, type NodeStatus } from './node-status.ts';

const base: NodeStatus = {
  name: 'dn1',
  kind: 'data',
  role: null,
  term: null,
  state: 'starting',
  step: 'start-server',
  waitingFor: null,
  reasons: ['start-server is running'],
  pid: 1,
  startedAt: '2026-01-01T00:00:00.000Z',
  postgres: null,
  runs: [],
  dataNode: null,
};

const event = (step: string, state: RunEvent['state']): RunEvent => ({
  run: 'bring-up',
  node: 'dn1',
  step,
  state,
  atMs: 0,
});

let status: NodeStatus = base;
let events: RunEvents;
let feed: EventFeed;
let server: HttpServer;
let stop: AbortController;
let bugs: unknown[];

beforeEach(async () => {
  status = base;
  events = new RunEvents();
  feed = new EventFeed(events, { epoch: 'e' });
  stop = new AbortController();
  bugs = [];
  const app = httpApp({
    status: () => status,
    system: () => Promise.resolve({ ...systemStatus([]), group: null }),
    maps: () => Promise.resolve([]),
    feed,
    metrics: nodeMetrics(events, () => status),
    onBug: (error) => bugs.push(error),
    signal: stop.signal,
  });
  app.get('/broken', () => {
    throw new TypeError('undefined is not a function');
  });
  server = await serveHttp(app, { port: 0 });
});

afterEach(async () => {
  stop.abort();
  feed[Symbol.dispose]();
  await server[Symbol.asyncDispose]();
});

const get = (path: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${server.url}${path}`, { headers });

test('a process that runs is alive, and not ready until it says so', async () => {
  expect((await get('/healthz')).status).toBe(200);
  const early = await get('/readyz');
  expect([early.status, await early.json()]).toEqual([
    503,
    { ready: false, reasons: ['start-server is running'] },
  ]);
  status = { ...base, state: 'ready', reasons: [] };
  expect((await get('/readyz')).status).toBe(200);
});

test('metrics count how steps ended and say whether the node is ready', async () => {
  events.publish(event('start-server', 'running'));
  events.publish(event('start-server', 'done'));
  events.publish(event('', 'done'));
  status = { ...base, state: 'ready' };
  const text = await (await get('/metrics')).text();
  expect(text).toContain('varve_steps_total{run="bring-up",step="start-server",state="done"} 1');
  expect(text).toContain('varve_runs_total{run="bring-up",state="done"} 1');
  expect(text).toContain('varve_ready 1');
  expect(text).toMatch(/process_resident_memory_bytes \d+/);
});

describe('errors', () => {
  test('an unknown path is 404 with the paths that there are', async () => {
    const response = await get('/nope');
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({
      code: 'NOT_FOUND',
      hint: expect.stringContaining('/readyz') as string,
    });
  });

  test('a bug is 500 with a message, and told to the log', async () => {
    const response = await get('/broken');
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([500, 'INTERNAL']);
    expect(bugs).toHaveLength(1);
  });

  test('a name that is not of this machine is refused', async () => {
    const { request } = await import('node:http');
    const code = await new Promise((resolve, reject) => {
      const asked = request(
        `${server.url}/api/status`,
        { headers: { host: 'evil.example:80' } },
        (response) => {
          response.resume();
          resolve(response.statusCode);
        },
      );
      asked.on('error', reject).end();
    });
    expect(code).toBe(400);
  });

  test('the dashboard is served with what it needs, and nothing from outside of its folder', async () => {
    const page = await fetch(`${server.url}/`);
    expect(page.headers.get('content-type')).toContain('text/html');
    const text = await page.text();
    for (const [, path = ''] of text.matchAll(/(?:src|href)="(\/web\/[^"]+)"/g)) {
      expect((await fetch(`${server.url}${path}`)).status).toBe(200);
    }
    expect(text).toContain('/web/main.js');
    for (const path of ['/web/../package.json', '/web/%2e%2e/package.json', '/web/..%2fpackage.json']) {
      expect((await fetch(`${server.url}${path}`)).status).toBe(404);
    }
    expect(await (await fetch(`${server.url}/api/system`)).json()).toMatchObject({ nodes: [] });
  });

  test('a port in use is refused by its number', async () => {
    const port = Number(new URL(server.url).port);
    const app = httpApp({
      status: () => status,
      system: () => Promise.resolve({ ...systemStatus([]), group: null }),
      maps: () => Promise.resolve([]),
      feed,
      metrics: nodeMetrics(events, () => status),
      onBug: () => {},
      signal: stop.signal,
    });
    await expect(serveHttp(app, { port })).rejects.toMatchObject({
      code: 'PORT_IN_USE',
      message: expect.stringContaining(String(port)) as string,
    });
  });
});

describe('the stream of events', () => {
  /** The steps of the first `count` messages. */
  async function steps(count: number, lastId?: string): Promise<string[]> {
    const leave = new AbortController();
    const response = await fetch(`${server.url}/api/events`, {
      headers: lastId ? { 'last-event-id': lastId } : {},
      signal: leave.signal,
    });
    let text = '';
    const found = (): string[] =>
      [...text.matchAll(/^data: (.*)$/gm)].map(([, json]) => (JSON.parse(json ?? '') as RunEvent).step);
    if (!response.body) throw new Error('no body');
    for await (const chunk of response.body) {
      text += Buffer.from(chunk as Uint8Array).toString();
      if (found().length >= count) break;
    }
    leave.abort();
    return found();
  }

  test('begins with what was before and goes on with what comes', async () => {
    events.publish(event('one', 'done'));
    const read = steps(2);
    await expect.poll(() => feed.since(undefined).length).toBe(1);
    setTimeout(() => events.publish(event('two', 'done')), 50);
    expect(await read).toEqual(['one', 'two']);
  });

  test('continues after the last one that was seen', async () => {
    for (const step of ['one', 'two', 'three']) events.publish(event(step, 'done'));
    expect(await steps(1, 'e-2')).toEqual(['three']);
    expect(await steps(3, 'another-2')).toEqual(['one', 'two', 'three']);
  });

  test('a silent stream has heartbeats, and ends with the node', async () => {
    const reader = feed.read(undefined, { heartbeatMs: 1, signal: stop.signal });
    expect(await reader.next()).toEqual({ done: false, value: undefined });
    const last = reader.next().then(() => reader.next());
    stop.abort();
    expect((await last).done).toBe(true);
  });
});
