/** `npm start -- OPTIONS` is `varve up OPTIONS`, with all that it needs installed and compiled first. */
import { prepare, run } from './prepare.js';

void run(async () => {
  await prepare({ dev: false });
  const { main } = await import('../dist/cli/main.js');
  return main(['up', ...process.argv.slice(2)]);
});
