import { defineConfig } from 'vitest/config';

/**
 * The suffix of a test file says what it needs, and so which project runs it. Projects run one after the other,
 * the quick ones first.
 */
const project = (name: string, groupOrder: number, include: string[], more: object = {}) => ({
  test: { name, include, environment: 'node' as const, sequence: { groupOrder }, ...more },
});

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
        testTimeout: 180_000,
        hookTimeout: 180_000,
        fileParallelism: false,
      }),
    ],
  },
});
