import { defineConfig } from 'vitest/config';

/** The suffix of a test file says what it needs, and so which project runs it. */
const project = (name: string, include: string[], more: object = {}) => ({
  test: { name, include, environment: 'node' as const, ...more },
});

export default defineConfig({
  test: {
    globalSetup: ['test/leak-check.ts'],
    projects: [
      project('unit', ['{src,test}/**/*.test.ts'], {
        exclude: ['**/*.pg.test.ts', '**/*.cluster.test.ts', '**/node_modules/**'],
      }),
      project('pg', ['{src,test}/**/*.pg.test.ts'], {
        globalSetup: ['test/postgres-server.ts'],
        testTimeout: 60_000,
        hookTimeout: 120_000,
        maxWorkers: 2,
      }),
      project('cluster', ['{src,test}/**/*.cluster.test.ts'], {
        testTimeout: 180_000,
        hookTimeout: 180_000,
        fileParallelism: false,
      }),
    ],
  },
});
