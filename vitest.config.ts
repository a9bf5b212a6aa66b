import { defineConfig } from 'vitest/config';

/**
 * The suffix of a test file says what it needs, and so which project runs it. Projects run one after the other,
 * the quick ones first.
 */
const project = (name: string, groupOrder: number, include: string[], more: object = {}) => ({
  test: { name, include, environment: 'node' as const, sequence: { groupOrder }, ...more },
});

/**
 * Whole files that take minutes, and whose waits a busy machine can outlast: processes and servers that are killed
 * again and again. `npm run soak` runs them.
 */
const LEFT_TO_SOAK =
  process.env['VARVE_SOAK'] === '1'
    ? []
    : [
        'src/cluster/bootstrap/kill.pg.test.ts',
        'src/cluster/bootstrap/bootstrap.cluster.test.ts',
        'src/cluster/master/small-groups.cluster.test.ts',
        'src/cluster/master/take-over.cluster.test.ts',
        'src/node/networks.cluster.test.ts',
        'src/node/storage-scenarios.cluster.test.ts',
        'src/node/storage-chaos.cluster.test.ts',
      ];
if (LEFT_TO_SOAK.length > 0) console.warn(`left to npm run soak: ${LEFT_TO_SOAK.join(', ')}`);

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
        exclude: [...LEFT_TO_SOAK, '**/node_modules/**'],
        globalSetup: ['test/postgres-server.ts'],
        testTimeout: 60_000,
        hookTimeout: 120_000,
        maxWorkers: 2,
      }),
      project('cluster', 2, ['{src,test}/**/*.cluster.test.ts'], {
        exclude: [...LEFT_TO_SOAK, '**/node_modules/**'],
        testTimeout: 180_000,
        hookTimeout: 180_000,
        fileParallelism: false,
      }),
    ],
  },
});
