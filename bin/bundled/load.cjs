/**
 * Loads the bundle. V8 takes what it has compiled of it before from a file where there is one that was made by this V8
 * on such a processor under the same flags; that is what `cachedDataVersionTag` stands for. The file is made together
 * with the bundle (`rehearse.js`), so it cannot be of another one.
 */
const fs = require('node:fs');
const { createRequire } = require('node:module');
const path = require('node:path');
const v8 = require('node:v8');
const vm = require('node:vm');

const program = path.join(__dirname, 'program.js');
const cacheFile = path.join(__dirname, `program.${v8.cachedDataVersionTag()}.cache`);

/** Its exports, and the script, of which a cache can be made. */
exports.load = function load() {
  // It is all ASCII: as text of one byte a character it takes half of the memory.
  const source = fs.readFileSync(program, 'latin1');
  const script = new vm.Script(source, { filename: program, cachedData: readIfThere(cacheFile) });
  const module = { exports: {} };
  const run = script.runInThisContext();
  run.call(module.exports, module.exports, createRequire(program), module, program, __dirname);
  return { ...module.exports, script };
};

exports.cacheFile = cacheFile;

function readIfThere(file) {
  try {
    return fs.readFileSync(file);
  } catch {
    return undefined;
  }
}
