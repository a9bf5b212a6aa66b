/**
 * Keeps what V8 has compiled when nodes of each kind have been loaded, for later starts. None starts: they have no
 * folder, which is found out last.
 */
const fs = require('node:fs');
const { cacheFile, load } = require('./load.js');

const KINDS = ['access', 'data', 'storage'];

void (async () => {
  const { main, script } = load();
  for (const kind of KINDS) await main(['node', '--name', 'rehearsal', '--kind', kind]);
  fs.writeFileSync(cacheFile, script.createCachedData());
})();
