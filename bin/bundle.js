/**
 * Puts the compiled command line into few files: a process that loads two hundred modules one by one spends half of its
 * start on that, and each node of a system is a process. Commands stay apart, so that each loads only what it needs.
 */
import fs from 'node:fs';
import path from 'node:path';

/**
 * Loaded by every node, or by every command, so it pays to have them in the bundle, of zod only what is used; other
 * packages stay where they are.
 */
const BUNDLED = new Set(['@hono/node-server', 'commander', 'hono', 'pg', 'pino', 'prom-client', 'zod']);
/** Asked for by those, and never there. */
const ABSENT = ['pg-native'];

/** CommonJS packages ask for Node's modules by `require`, which modules do not have. */
const REQUIRE =
  "import { createRequire as requireFor } from 'node:module'; const require = requireFor(import.meta.url);";

/**
 * From `dist/cli/entry.js` to `dist/bundle/entry.js`; everything that it needs is two folders below `root`, as in the
 * sources. Where the bundler does not run, the start is slower, and nothing else is different.
 */
export async function bundle(root, dist) {
  const { dependencies } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
  const outdir = path.join(dist, 'bundle');
  try {
    const { build } = await import('esbuild');
    await build({
      entryPoints: [path.join(dist, 'cli', 'entry.js')],
      outdir,
      bundle: true,
      splitting: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      absWorkingDir: root,
      external: [...Object.keys(dependencies).filter((name) => !BUNDLED.has(name)), ...ABSENT],
      banner: { js: REQUIRE },
      logLevel: 'error',
    });
  } catch (error) {
    console.error(`varve: the command line is not bundled and starts slower: ${error.message}`);
    fs.rmSync(outdir, { recursive: true, force: true });
    fs.mkdirSync(outdir);
    fs.writeFileSync(path.join(outdir, 'entry.js'), "import '../cli/entry.js';\n");
  }
}
