/**
 * Makes a checkout runnable: checks Node, installs packages and compiles, each only when needed.
 * Plain JavaScript without dependencies, because it runs before any are there.
 *
 * What is safe to interrupt or to start twice: a lock file serialises two preparations; the compiler writes
 * to a folder of its own, which takes the place of `dist` by renaming; `npm ci` is repeated unless it ended.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildKernels, kernelsAreBuilt } from './build-kernels.js';
import { bundle, BUNDLE_SOURCES } from './bundle.js';

const FLOOR = [20, 19];
const LOCK_WAIT_MS = 10 * 60_000;

/** The checkout. */
export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const at = (...parts) => path.join(root, ...parts);
const installStamp = at('node_modules', '.varve-installed.json');
const buildStamp = at('dist', '.varve-built');
const lockPath = at('.prepare.lock');

/** An expected failure: its message is all that the user needs. */
class Refusal extends Error {}

/** Runs `main` and ends with its number; an expected failure is one message and 1. */
export async function run(main) {
  try {
    checkNode();
    const code = await main();
    if (typeof code === 'number') process.exitCode = code;
  } catch (error) {
    console.error(error instanceof Refusal ? `varve: ${error.message}` : error);
    process.exitCode = 1;
  }
}

/** Installs and builds what is missing or out of date. `dev`: with what the tests need. */
export async function prepare({ dev }) {
  if (isInstalled(dev) && isBuilt() && kernelsAreBuilt(root)) return;
  const release = await lock();
  try {
    if (!isInstalled(dev)) install(dev);
    if (!isBuilt()) await build();
    if (!kernelsAreBuilt(root)) {
      say('compiling the storage kernels ...');
      buildKernels(root);
    }
  } finally {
    release();
  }
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major > FLOOR[0] || (major === FLOOR[0] && minor >= FLOOR[1])) return;
  throw new Refusal(
    `Node ${process.versions.node} is too old: ${FLOOR.join('.')} or newer is needed (https://nodejs.org).`,
  );
}

/** True when the packages of the lock file are there, with the development ones if `dev`. */
function isInstalled(dev) {
  const installed = readIfThere(at('node_modules', '.package-lock.json'));
  if (installed === undefined) return false;
  const wanted = fs.readFileSync(at('package-lock.json'));
  const stamp = JSON.parse(readIfThere(installStamp) ?? '{}');
  const state = digest(wanted, installed, process.platform, process.arch);
  if (stamp.state === state && (stamp.dev || !dev)) return true;
  if (!holds(JSON.parse(installed).packages, JSON.parse(wanted).packages, dev)) return false;
  // Installed by hand, or by an npm that did not come through here: remember it, if this user may write.
  tryTo(() => fs.writeFileSync(installStamp, JSON.stringify({ state, dev })));
  return true;
}

/** Whether every package of the lock file that this machine needs is installed in that version. */
function holds(installed, wanted, dev) {
  return Object.entries(wanted).every(([place, entry]) => {
    if (place === '' || entry.optional || entry.devOptional || entry.peer || (entry.dev && !dev)) return true;
    return installed[place] !== undefined && installed[place].version === entry.version;
  });
}

function install(dev) {
  // Development packages that are already there stay: removing them would break a running test.
  const withDev = dev || JSON.parse(readIfThere(installStamp) ?? '{}').dev === true;
  say(`installing packages${withDev ? '' : ' (without those for development)'} ...`);
  const args = ['ci', '--no-audit', '--no-fund', withDev ? '--include=dev' : '--omit=dev'];
  const npm = process.env['npm_execpath'];
  const [command, first] = npm && /\.c?js$/.test(npm) ? [process.execPath, [npm]] : ['npm', []];
  const result = spawnSync(command, [...first, ...args], { cwd: root, stdio: ['ignore', 2, 2] });
  if (result.error) throw new Refusal(`npm cannot be started (${result.error.message}): is it on the PATH?`);
  if (result.status !== 0) {
    throw new Refusal('npm ci failed, see above. Correct the cause (network, disk, rights) and repeat.');
  }
  const state = digest(
    fs.readFileSync(at('package-lock.json')),
    fs.readFileSync(at('node_modules', '.package-lock.json')),
    process.platform,
    process.arch,
  );
  fs.writeFileSync(installStamp, JSON.stringify({ state, dev: withDev }));
}

function isBuilt() {
  return readIfThere(buildStamp)?.toString() === sourcesDigest();
}

/** Changes whenever the compiler's output would. */
function sourcesDigest() {
  const files = fs
    .readdirSync(at('src'), { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.ts') && !/\.(test|suite)\.ts$/.test(name))
    .sort();
  const parts = files.flatMap((name) => [name, fs.readFileSync(at('src', name))]);
  const others = [at('tsconfig.json'), at('tsconfig.build.json'), ...BUNDLE_SOURCES];
  return digest(...parts, ...others.map((file) => fs.readFileSync(file)));
}

async function build() {
  say('compiling ...');
  const state = sourcesDigest();
  const fresh = at(`dist.new-${process.pid}`);
  const old = at(`dist.old-${process.pid}`);
  try {
    // Types are checked by `npm run check`: a plain install has no type packages.
    const args = [at('node_modules', 'typescript', 'bin', 'tsc'), '-p', at('tsconfig.build.json')];
    const result = spawnSync(process.execPath, [...args, '--noCheck', '--types', '', '--outDir', fresh], {
      cwd: root,
      stdio: ['ignore', 2, 2],
    });
    if (result.status !== 0) throw new Refusal('the sources do not compile, see above.');
    await bundle(root, fresh);
    fs.writeFileSync(path.join(fresh, '.varve-built'), state);
    if (fs.existsSync(at('dist'))) fs.renameSync(at('dist'), old);
    fs.renameSync(fresh, at('dist'));
  } finally {
    for (const folder of [fresh, old]) fs.rmSync(folder, { recursive: true, force: true });
  }
}

/** Waits until no other preparation of this checkout runs. */
async function lock() {
  const mine = `${process.pid}`;
  let said = false;
  for (const deadline = Date.now() + LOCK_WAIT_MS; ;) {
    try {
      fs.writeFileSync(lockPath, mine, { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw notWritable(error);
    }
    const holder = readIfThere(lockPath)?.toString() ?? '';
    if (isDead(holder)) breakLock(holder);
    else if (Date.now() > deadline) {
      throw new Refusal(`process ${holder} has held ${lockPath} for too long: end it, or delete that file.`);
    } else if (!said && Date.now() > deadline - LOCK_WAIT_MS + 1000) {
      say(`waiting for process ${holder}, which is preparing this checkout ...`);
      said = true;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const release = () => tryTo(() => fs.unlinkSync(lockPath));
  process.once('exit', release);
  return () => {
    process.removeListener('exit', release);
    release();
  };
}

/** Removes the lock of a dead holder, unless another process was faster and holds it by now. */
function breakLock(holder) {
  const aside = `${lockPath}.${process.pid}`;
  tryTo(() => {
    fs.renameSync(lockPath, aside);
    if (fs.readFileSync(aside, 'utf8') !== holder) fs.linkSync(aside, lockPath);
  });
  tryTo(() => fs.unlinkSync(aside));
}

function notWritable(error) {
  return new Refusal(
    `packages must be installed or sources compiled, but this user cannot write to ${root} (${error.code}). ` +
      'Run `npm start` once as the owner of that folder, or use a copy of your own.',
  );
}

/** A holder that wrote no number within five seconds was killed between creating the file and writing it. */
function isDead(holder) {
  if (holder === '') {
    const created = fs.statSync(lockPath, { throwIfNoEntry: false });
    return created !== undefined && Date.now() - created.mtimeMs > 5000;
  }
  try {
    process.kill(Number(holder), 0);
    return false;
  } catch (error) {
    return error.code === 'ESRCH';
  }
}

function readIfThere(file) {
  try {
    return fs.readFileSync(file);
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function tryTo(act) {
  try {
    act();
  } catch {
    // The caller can do without.
  }
}

function digest(...parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return hash.digest('hex');
}

function say(line) {
  process.stderr.write(`varve: ${line}\n`);
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  void run(() => prepare({ dev: process.argv.includes('--dev') }));
}
