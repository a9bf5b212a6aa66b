/**
 * Compiles the storage kernels from AssemblyScript to build/kernel.wasm, only when their sources, the compiler
 * or its options have changed.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';

const SOURCES = ['src', 'storage', 'kernel', 'assembly'];
const OPTIONS = ['-O3', '--runtime', 'stub', '--enable', 'simd', '--noAssert', '--initialMemory', '2'];

/** True when build/kernel.wasm is what the sources below `root` compile to. */
export function kernelsAreBuilt(root) {
  const stamp = path.join(root, 'build', 'kernel.digest');
  const wasm = path.join(root, 'build', 'kernel.wasm');
  return (
    fs.existsSync(wasm) && fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8') === sourcesDigest(root)
  );
}

/** Compiles if that is needed. Throws when the sources do not compile; the compiler has said why. */
export function buildKernels(root) {
  if (kernelsAreBuilt(root)) return;
  const digest = sourcesDigest(root);
  const folder = path.join(root, 'build');
  const fresh = path.join(folder, `kernel-${process.pid}.wasm`);
  fs.mkdirSync(folder, { recursive: true });
  try {
    const compiler = path.join(root, 'node_modules', 'assemblyscript', 'bin', 'asc.js');
    const args = [compiler, path.join(...SOURCES, 'index.ts'), ...OPTIONS, '--outFile', fresh];
    const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: ['ignore', 2, 2] });
    if (status !== 0) throw new Error('the storage kernels do not compile, see above.');
    // The stamp goes first and comes last: a crash between leaves no stamp that says more than is true.
    fs.rmSync(path.join(folder, 'kernel.digest'), { force: true });
    fs.renameSync(fresh, path.join(folder, 'kernel.wasm'));
    fs.writeFileSync(path.join(folder, 'kernel.digest'), digest);
  } finally {
    fs.rmSync(fresh, { force: true });
  }
}

function sourcesDigest(root) {
  const folder = path.join(root, ...SOURCES);
  const manifest = path.join(root, 'node_modules', 'assemblyscript', 'package.json');
  const hash = createHash('sha256').update(OPTIONS.join(' '));
  const files = fs
    .readdirSync(folder)
    .sort()
    .map((name) => path.join(folder, name));
  for (const file of [...files, manifest].filter((file) => fs.existsSync(file))) {
    hash.update(path.basename(file)).update('\0').update(fs.readFileSync(file));
  }
  return hash.digest('hex');
}
