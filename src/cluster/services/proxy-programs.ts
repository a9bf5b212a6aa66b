import { access, constants } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { VarveError } from '../../core/errors.ts';

/** Folders in which Debian and others put programs for administrators. */
const MORE_FOLDERS = ['/usr/sbin', '/usr/local/sbin', '/sbin', '/usr/local/bin', '/usr/bin'];

/**
 * The path of a proxy's program: `wanted`, or the first on the search path; undefined when it is not installed.
 * @throws INVALID_ARGUMENT when `wanted` is given and is no program
 */
export async function findProxyProgram(
  name: 'haproxy' | 'pgbouncer',
  options: { readonly wanted?: string | undefined; readonly searchPath?: readonly string[] | undefined },
): Promise<string | undefined> {
  const { wanted, searchPath = [] } = options;
  if (wanted !== undefined) {
    if (isAbsolute(wanted) && (await isProgram(wanted))) return wanted;
    throw new VarveError('INVALID_ARGUMENT', `${wanted} is no program that can be run as ${name}`, {
      hint: 'Give the absolute path of the program, or leave the setting out.',
    });
  }
  for (const folder of [...searchPath, ...MORE_FOLDERS]) {
    const path = join(folder, name);
    if (await isProgram(path)) return path;
  }
  return undefined;
}

async function isProgram(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
