/**
 * `npm test -- OPTIONS`: all tests, then a summary that says what was skipped. Options go to vitest.
 * VARVE_TEST_REPORT names a file for vitest's JSON report.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { prepare, root, run } from './prepare.js';

void run(async () => {
  await prepare({ dev: true });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'varve-test-'));
  try {
    const report = process.env['VARVE_TEST_REPORT'] || path.join(folder, 'report.json');
    fs.rmSync(report, { force: true });
    const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs');
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
    const args = [vitest, 'run', ...reporters, ...process.argv.slice(2)];
    const { status } = spawnSync(process.execPath, args, {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    return summarize(report, status ?? 1);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
});

/** Prints what ran and, loudly, what did not. The result is the exit code. */
function summarize(report, status) {
  const result = fs.existsSync(report) ? JSON.parse(fs.readFileSync(report, 'utf8')) : undefined;
  const files = result?.testResults ?? [];
  const tests = files.flatMap((file) => file.assertionResults.map((test) => ({ ...test, file: file.name })));
  const count = (...states) => tests.filter((test) => states.includes(test.status)).length;
  const skipped = tests.filter((test) => ['pending', 'skipped', 'todo', 'disabled'].includes(test.status));
  if (skipped.length > 0) {
    console.log(`\nSKIPPED, so nothing is known about these ${skipped.length}:`);
    for (const test of skipped) console.log(`  ${path.relative(root, test.file)}: ${test.fullName.trim()}`);
    console.log(
      'A server that a test needs is missing where a reason is given; `.ci/run` installs them on Debian.',
    );
  }
  const brokenFiles = files.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  );
  for (const file of brokenFiles) console.log(`\nFAILED before its tests: ${path.relative(root, file.name)}`);
  const passed = count('passed');
  console.log(
    `\nTests: ${passed} passed, ${count('failed') + brokenFiles.length} failed, ${skipped.length} skipped.`,
  );
  if (status === 0 && passed === 0) {
    console.log('No test ran: that is no success.');
    return 1;
  }
  return status;
}
