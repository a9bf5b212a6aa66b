import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { TASK_TRANSITIONS } from './task-states.ts';

const page = readFileSync(new URL('../../../docs/cluster.md', import.meta.url), 'utf8').replaceAll(
  / +/g,
  ' ',
);

test.each(TASK_TRANSITIONS)('$from, $event is in the manual', ({ from, event, lastAttempt, to, comment }) => {
  const when = lastAttempt === undefined ? event : `${event} (${lastAttempt ? '' : 'not the '}last attempt)`;
  expect(page).toContain(`| ${from} | ${when} | ${to} | ${comment} |`);
});
