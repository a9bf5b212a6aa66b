/**
 * `npm run soak -- OPTIONS`: the tests that draw a few points or seeds where time is short take all of them.
 * Options go to vitest; a path keeps it to those tests.
 */
process.env['VARVE_SOAK'] = '1';
await import('./test.js');
