/** `npm start -- OPTIONS` is `varve up OPTIONS`, with all that it needs installed and compiled first. */
import { prepare, run } from './prepare.js';

void run(async () => {
  await prepare({ dev: false });
  process.argv.splice(2, 0, 'up');
  await import('../dist/bundle/entry.js');
});
