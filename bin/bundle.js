/**
 * Puts the compiled command line into one file, and beside it what V8 has compiled of that: a process that loads two
 * hundred modules one by one, and compiles them, spends most of its start on that, and each node of a system is a
 * process. Commands that are not used are neither run nor compiled.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/**
 * Loaded by every node, or by every command, so it pays to have them in the bundle, of zod only what is used; other
 * packages stay where they are.
 */
const BUNDLED = new Set(['@hono/node-server', 'commander', 'hono', 'pg', 'pino', 'prom-client', 'zod']);
/** Asked for by those, and never there. */
const ABSENT = ['pg-native'];

/** What stands around the bundle, by the names that it has there. */
const AROUND = { 'entry.js': 'entry.cjs', 'load.js': 'load.cjs', 'rehearse.js': 'rehearse.cjs' };
const around = fileURLToPath(new URL('bundled/', import.meta.url));

/** The sources are modules and know where they are by `import.meta.url`, which a script does not have. */
const URL_OF_SCRIPT = 'urlOfScript';
const BANNER = `const ${URL_OF_SCRIPT} = require('node:url').pathToFileURL(__filename).href;`;

/** Node's flags under which processes are started, but for those that people give. */
async function usualFlags(dist) {
  const { MEMORY_FLAGS } = await import(pathToFileURL(path.join(dist, 'node', 'node-process.js')).href);
  return [[], MEMORY_FLAGS];
}

/** The files that make up the bundler's part, for whoever wants to know whether it has changed. */
export const BUNDLE_SOURCES = [
  fileURLToPath(import.meta.url),
  ...Object.values(AROUND).map((name) => path.join(around, name)),
];

/**
 * From `dist/cli/main.js` to `dist/bundle/entry.js`; everything that it needs is two folders below `root`, as in the
 * sources. Where the bundler does not run, the start is slower, and nothing else is different.
 */
export async function bundle(root, dist) {
  const outdir = path.join(dist, 'bundle');
  try {
    fs.mkdirSync(outdir);
    fs.writeFileSync(path.join(outdir, 'program.js'), asFunction(ascii(await bundled(root, dist))));
    fs.writeFileSync(path.join(outdir, 'package.json'), '{ "type": "commonjs" }\n');
    for (const [name, source] of Object.entries(AROUND)) {
      fs.copyFileSync(path.join(around, source), path.join(outdir, name));
    }
    for (const flags of await usualFlags(dist)) {
      spawnSync(process.execPath, [...flags, path.join(outdir, 'rehearse.js')], { stdio: 'ignore' });
    }
  } catch (error) {
    console.error(`varve: the command line is not bundled and starts slower: ${error.message}`);
    fs.rmSync(outdir, { recursive: true, force: true });
    fs.mkdirSync(outdir);
    fs.writeFileSync(path.join(outdir, 'entry.js'), "import '../cli/entry.js';\n");
  }
}

async function bundled(root, dist) {
  const { dependencies } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
  const { build } = await import('esbuild');
  const { outputFiles } = await build({
    entryPoints: [path.join(dist, 'cli', 'main.js')],
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    absWorkingDir: root,
    external: [...Object.keys(dependencies).filter((name) => !BUNDLED.has(name)), ...ABSENT],
    // A script that V8 takes from its cache cannot import.
    supported: { 'dynamic-import': false },
    define: { 'import.meta.url': URL_OF_SCRIPT },
    banner: { js: BANNER },
    logLevel: 'error',
    write: false,
  });
  return outputFiles[0].text;
}

/** As Node wraps scripts: whoever loads it need not put a second copy of it together. */
function asFunction(text) {
  return `(function (exports, require, module, __filename, __dirname) {${text}\n})`;
}

/** Strings are escaped already; what is left stands in comments and regular expressions, where an escape is the same. */
function ascii(text) {
  return text.replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
