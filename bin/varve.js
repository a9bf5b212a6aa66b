#!/usr/bin/env node
/** The command line of a checkout: compiles first when the sources have changed. */
import { prepare, run } from './prepare.js';

void run(async () => {
  await prepare({ dev: false });
  const { main } = await import('../dist/cli/main.js');
  return main(process.argv.slice(2));
});
