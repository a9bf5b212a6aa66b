import { execFileSync } from 'node:child_process';

/** Whether this process may make network namespaces. */
export function mayMakeNetworks(): boolean {
  try {
    ip('netns', 'add', `${PREFIX}try`);
    ip('netns', 'del', `${PREFIX}try`);
    return true;
  } catch {
    return false;
  }
}

const PREFIX = `vt${process.pid}-`;
/** Where clients are. */
const HUB = 'hub';
/** A card that nobody has: what is sent there is lost. */
const NOBODY = '02:00:00:00:00:01';

/**
 * Machines, as far as the network is concerned: a namespace each, all on one switch, which is in a namespace of its
 * own. Nothing of it is connected with this machine's network. The hub, where clients are, has an address there, too.
 */
export class NetworkSpaces implements Disposable {
  readonly names: readonly string[];
  readonly #blocked = new Set<string>();

  constructor(names: readonly string[]) {
    this.names = names;
    try {
      ip('netns', 'add', space(HUB));
      inHub('link', 'set', 'lo', 'up');
      inHub('link', 'add', 'switch', 'type', 'bridge');
      inHub('addr', 'add', `${this.addressOf(HUB)}/24`, 'dev', 'switch');
      inHub('link', 'set', 'switch', 'up');
      for (const name of names) this.#add(name);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  addressOf(name: string): string {
    return name === HUB ? '10.77.0.1' : `10.77.0.${10 + this.names.indexOf(name)}`;
  }

  /** A program and its arguments, to be run in that namespace: `hub`, or one of the names. */
  inside(name: string, command: readonly string[]): readonly [string, string[]] {
    return ['ip', ['netns', 'exec', space(name), ...command]];
  }

  /** Nothing comes through its cable any more, in either direction. */
  unplug(name: string): void {
    inHub('link', 'set', name, 'down');
  }

  plug(name: string): void {
    inHub('link', 'set', name, 'up');
  }

  /** Those two do not reach each other any more; everybody else reaches them, and they everybody else. */
  separate(one: string, other: string): void {
    this.lose(one, other);
    this.lose(other, one);
  }

  /** What the one sends to the other is lost on the way; not so the other way round. */
  lose(from: string, to: string): void {
    this.#blocked.add(JSON.stringify([from, to]));
    const there = ['lladdr', NOBODY, 'nud', 'permanent', 'dev', cardOf(from)];
    ip('-n', space(from), 'neigh', 'replace', this.addressOf(to), ...there);
  }

  /** All that it sends is lost; it hears everybody. */
  mute(name: string): void {
    for (const other of this.#othersThan(name)) this.lose(name, other);
  }

  /** All that is sent to it is lost; everybody hears it. */
  deafen(name: string): void {
    for (const other of this.#othersThan(name)) this.lose(other, name);
  }

  heal(): void {
    for (const name of this.names) this.plug(name);
    for (const pair of this.#blocked) {
      const [from, to] = JSON.parse(pair) as [string, string];
      ip('-n', space(from), 'neigh', 'del', this.addressOf(to), 'dev', cardOf(from));
    }
    this.#blocked.clear();
  }

  /** With all processes that are left in them. */
  [Symbol.dispose](): void {
    for (const name of [...this.names, HUB]) {
      for (const pid of pidsIn(name)) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch {
          // Gone meanwhile.
        }
      }
      try {
        ip('netns', 'del', space(name));
      } catch {
        // It was not made.
      }
    }
  }

  #othersThan(name: string): string[] {
    return [HUB, ...this.names].filter((other) => other !== name);
  }

  #add(name: string): void {
    const address = `${this.addressOf(name)}/24`;
    ip('netns', 'add', space(name));
    inHub('link', 'add', name, 'type', 'veth', 'peer', 'name', cardOf(name), 'netns', space(name));
    inHub('link', 'set', name, 'master', 'switch', 'up');
    ip('-n', space(name), 'addr', 'add', address, 'dev', cardOf(name));
    ip('-n', space(name), 'link', 'set', cardOf(name), 'up');
    ip('-n', space(name), 'link', 'set', 'lo', 'up');
  }
}

function cardOf(name: string): string {
  return name === HUB ? 'switch' : 'eth0';
}

function pidsIn(name: string): number[] {
  try {
    return ip('netns', 'pids', space(name)).split('\n').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

function inHub(...args: string[]): void {
  ip('-n', space(HUB), ...args);
}

function space(name: string): string {
  return PREFIX + name;
}

function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
