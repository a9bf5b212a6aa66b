import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PACKAGE_ROOT } from '../core/package-root.ts';

/** The version of extension `varve` that this build brings along. */
export const EXTENSION_VERSION = '0.1.0';

/** `sql/` stands beside both `src/` and `dist/`. */
const SQL_FOLDER = fileURLToPath(new URL('sql', PACKAGE_ROOT));

/** The text of the extension script, as `create extension` takes it: `@extschema@` stands for its schema. */
export async function extensionScript(): Promise<string> {
  const folder = join(SQL_FOLDER, EXTENSION_VERSION);
  const parts = (await readdir(folder)).filter((name) => name.endsWith('.sql')).sort();
  const texts = await Promise.all(parts.map((name) => readFile(join(folder, name), 'utf8')));
  return texts.join('\n');
}

/**
 * Puts control file and script below `folder` in the arrangement that PostgreSQL 18 expects of an entry of
 * `extension_control_path`. Everybody may read them; a rerun replaces them.
 */
export async function writeExtensionFiles(folder: string): Promise<void> {
  const target = join(folder, 'extension');
  await mkdir(target, { recursive: true, mode: 0o755 });
  await writeReadable(
    join(target, 'varve.control'),
    await readFile(join(SQL_FOLDER, 'varve.control'), 'utf8'),
  );
  await writeReadable(join(target, `varve--${EXTENSION_VERSION}.sql`), await extensionScript());
}

async function writeReadable(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text, { mode: 0o644 });
  await rename(`${path}.new`, path);
}
