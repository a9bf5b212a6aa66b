#!/usr/bin/env node
/** The command line of a checkout: compiles first when the sources have changed. */
import { prepare, run } from './prepare.js';

void run(async () => {
  await prepare({ dev: false });
  await import('../dist/bundle/entry.js');
});
