/** The script behind `varve`, for processes that start each other. */
import { main } from './main.ts';

process.exitCode = await main(process.argv.slice(2));
