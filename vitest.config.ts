import { defineConfig } from 'vitest/config';

/**
 * The suffix of a test file says what it needs, and so which project runs it. Projects run one after the other,
 * the quick ones first.
 */
const project = (name: string, groupOrder: number, include: string[], more: object = {}) => ({
  test: { name, include, environment: 'node' as const, sequence: { groupOrder }, ...more },
});

/**
 * Whole files that a gate of twenty minutes has no time for: several processes each, killed again and again.
 * `npm test` and the soak run them.
 */
const LEFT_OUT_OF_GATE =
  process.env['VARVE_GATE'] === '1'
    ? [
        'src/cluster/bootstrap/bootstrap.cluster.test.ts',
        'src/cluster/master/small-groups.cluster.test.ts',
        'src/cluster/master/take-over.cluster.test.ts',
      ]
    : [];
if (LEFT_OUT_OF_GATE.length > 0)
  console.warn(`left to npm test and the soak: ${LEFT_OUT_OF_GATE.join(', ')}`);

export default defineConfig({
  test: {
    globalSetup: ['test/leak-check.ts'],
    projects: [
      project('unit', 0, ['{src,test}/**/*.test.ts'], {
        exclude: ['**/*.pg.test.ts', '**/*.cluster.test.ts', '**/node_modules/**'],
        // Properties and crash points are many; on a busy machine they take longer than vitest's five seconds.
        testTimeout: 60_000,
      }),
      project('pg', 1, ['{src,test}/**/*.pg.test.ts'], {
        globalSetup: ['test/postgres-server.ts'],
        testTimeout: 60_000,
        hookTimeout: 120_000,
        maxWorkers: 2,
      }),
      project('cluster', 2, ['{src,test}/**/*.cluster.test.ts'], {
        exclude: [...LEFT_OUT_OF_GATE, '**/node_modules/**'],
        testTimeout: 180_000,
        hookTimeout: 180_000,
        fileParallelism: false,
      }),
    ],
  },
});
