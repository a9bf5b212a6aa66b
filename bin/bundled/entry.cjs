/** The bundled command line; ends with its number. */
const { load } = require('./load.js');

void load()
  .main(process.argv.slice(2))
  .then((code) => (process.exitCode = code));
