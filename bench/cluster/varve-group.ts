import { fileURLToPath } from 'node:url';
import { defaultCacheFolder } from '../../src/postgres/cache-folder.ts';
import { templatesFolder } from '../../src/postgres/data-template.ts';
import { discard } from './attic.ts';
import { GroupProcesses, pidFileOf, type NodeProcess } from '../../test/group-processes.ts';

const entry = (folder: string): string =>
  fileURLToPath(new URL(`../../dist/${folder}/entry.js`, import.meta.url));
const KILL_AT = new URL('kill-at.js', import.meta.url).href;

export interface VarveGroupOptions {
  readonly etcdPort: number;
  readonly cluster: string;
  readonly leaseTtlS: number;
  readonly joiners?: number;
  /** For `doomFlags`, which reach into modules: they are loaded one by one, which takes a moment longer. */
  readonly canDie?: boolean;
  /** A data folder of an earlier start, to be copied, may be on the machine. */
  readonly warm?: boolean;
}

/** Nothing runs yet, and nothing has to be compiled: the first start begins the clock. */
export async function varveGroup({
  etcdPort,
  canDie,
  warm,
  ...options
}: VarveGroupOptions): Promise<GroupProcesses> {
  const script = entry(canDie === true ? 'cli' : 'bundle');
  if (warm !== true) await discard(templatesFolder(defaultCacheFolder()));
  return GroupProcesses.prepare({
    ...options,
    etcdUrl: `http://127.0.0.1:${etcdPort}`,
    script,
    discard,
  });
}

/** Where a node's process kills itself: see kill-at.js. */
export interface Doom {
  readonly step: string;
  readonly role: 'leader' | 'member' | 'any';
  readonly afterMs: number;
  /** Together with its PostgreSQL, or alone. */
  readonly what: 'machine' | 'daemon';
  /** Made by the one that dies: only one does. */
  readonly flag: string;
}

/** For `GroupProcesses.start`. */
export function doomFlags(node: NodeProcess, { step, role, afterMs, what, flag }: Doom): readonly string[] {
  const pidFile = what === 'machine' ? pidFileOf(node) : '';
  const query = new URLSearchParams({ step, role, afterMs: String(afterMs), flag, pidFile });
  return ['--import', `${KILL_AT}?${query.toString()}`];
}
