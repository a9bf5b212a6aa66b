import { createServer } from 'node:net';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { nextLayout, type SystemLayout, type WantedLayout } from './layout.ts';
import { chooseFreePorts, isFree } from './ports.ts';

const want = (wanted: Partial<WantedLayout> = {}): WantedLayout => ({
  access: 1,
  data: undefined,
  portBase: undefined,
  postgres: undefined,
  ...wanted,
});

const fromThousand = (count: number, taken: readonly number[]): Promise<number[]> =>
  Promise.resolve(Array.from({ length: count }, (_, i) => 1000 + taken.length + i));

const layout = (wanted: Partial<WantedLayout>, existing?: SystemLayout): Promise<SystemLayout> =>
  nextLayout(existing, want(wanted), fromThousand);

const names = ({ nodes }: SystemLayout): string => nodes.map(({ name }) => name).join(' ');
const ports = ({ coordinatorPort, nodes }: SystemLayout): number[] => [
  coordinatorPort,
  ...nodes.flatMap(({ pgPort, httpPort, rpcPort }) => [pgPort, httpPort, rpcPort]),
];

describe('the layout of a system', () => {
  test('is three access nodes, a group, and three data nodes by default', async () => {
    const made = await layout({ access: undefined });
    expect(names(made)).toBe('an1 an2 an3 dn1 dn2 dn3');
    expect(made).toMatchObject({ postgres: 'embedded', groupSize: 3 });
    expect(new Set(ports(made)).size).toBe(19);
  });

  test('counts its ports from the base', async () => {
    expect(ports(await layout({ data: 1, portBase: 7000 }))).toEqual([
      7000, 7001, 7002, 7003, 7004, 7005, 7006,
    ]);
  });

  test('stays as it is when nothing else is wanted', async () => {
    for (const wanted of [{ data: 2 }, { data: 2, portBase: 7000 }]) {
      const made = await layout(wanted);
      expect(await layout({}, made)).toEqual(made);
    }
  });

  test('keeps the number of shards that it was made with, also for nodes that come later', async () => {
    const made = await layout({ shardCount: 64 });
    expect(await layout({ data: 4, shardCount: 32 }, made)).toMatchObject({ shardCount: 64 });
    const { shardCount: _, ...older } = made;
    expect(await layout({ shardCount: 32 }, older)).toEqual(older);
  });

  test('grows by data nodes and keeps the ports that it has', async () => {
    for (const portBase of [undefined, 7000]) {
      const made = await layout({ portBase });
      const grown = await layout({ data: 4 }, made);
      expect(names(grown)).toBe('an1 dn1 dn2 dn3 dn4');
      expect(ports(grown).slice(0, 13)).toEqual(ports(made));
      expect(new Set(ports(grown)).size).toBe(16);
    }
  });

  test('is a group of access nodes, each with ports for its proxies', async () => {
    const made = await layout({ access: 3, data: 1, portBase: 7000 });
    expect(names(made)).toBe('an1 an2 an3 dn1');
    const proxies = made.nodes.flatMap(({ proxies: p }) => (p ? [p.write, p.read, p.pooler] : []));
    expect(new Set([...ports(made), ...proxies]).size).toBe(22);
    expect(await layout({ access: undefined }, made)).toEqual(made);
    const grown = await layout({ access: 4, data: 2 }, made);
    expect(names(grown)).toBe('an1 an2 an3 dn1 an4 dn2');
    expect(grown.nodes.slice(0, 4)).toEqual(made.nodes);
    // The fourth joins what three have begun.
    expect(grown.groupSize).toBe(3);
    expect(grown.nodes[4]?.proxies).toEqual({ write: 7025, read: 7026, pooler: 7027 });
  });

  test.each<[string, Partial<WantedLayout>, Partial<WantedLayout>, RegExp, RegExp]>([
    ['fewer data nodes', {}, { data: 2 }, /has 3 data nodes, more than --data 2/, /delete_data_node/],
    [
      'other ports',
      { portBase: 7000 },
      { portBase: 8000 },
      /--port-base 7000, not --port-base 8000/,
      /Leave/,
    ],
    ['ports of its own choice', {}, { portBase: 8000 }, /freely chosen ports/, /Leave/],
    ['another PostgreSQL', {}, { postgres: 'system' }, /another PostgreSQL/, /--postgres embedded/],
    ['a group of two', {}, { access: 2 }, /--access 2 is too few/, /3 and more/],
    ['a group later', { access: 1 }, { access: 3 }, /one access node/, /another folder/],
    ['fewer access nodes', { access: 3 }, { access: 1 }, /more than --access 1/, /cluster leave/],
    ['ports beyond the last', { portBase: 65_000, data: 250 }, {}, /not enough ports/, /smaller/],
  ])('cannot be changed to %s', async (_, first, second, message, hint) => {
    const error: unknown = await layout(first)
      .then((made) => layout(second, made))
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(message) as string,
    });
    expect(error).toMatchObject({ hint: expect.stringMatching(hint) as string });
  });
});

test('free ports are distinct, not taken, and nobody listens on them', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  expect(await isFree(port)).toBe(false);
  server.close();
  const [first = 0] = await chooseFreePorts(1, [], () => 0);
  const chosen = await chooseFreePorts(5, [first], () => 0);
  expect(new Set([first, ...chosen]).size).toBe(6);
});
