import { systemClock } from '../core/clock.ts';
import { EmbeddedCoordinator } from './embedded-server.ts';

/** An embedded coordinator as a process of its own, for tests that kill it: `node … FOLDER`. */
const log = { info: () => {}, warn: () => {}, error: () => {} };
const [folder = ''] = process.argv.slice(2);
const server = await EmbeddedCoordinator.start({ folder }, { clock: systemClock, log });
// Whoever started it is gone.
process.stdin.on('end', () => process.exit()).resume();
process.stdout.write(`${server.url}\n`);
