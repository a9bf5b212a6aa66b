import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { ERROR_CODES, type ErrorEntry } from '../src/core/error-codes.ts';

const source = fileURLToPath(new URL('../src', import.meta.url));
const code = readdirSync(source, { recursive: true })
  .map(String)
  .filter((name) => name.endsWith('.ts') && !/\.(test|suite)\.ts$|error-codes\.ts$/.test(name))
  .map((name) => readFileSync(`${source}/${name}`, 'utf8'))
  .join('\n');
const page = readFileSync(new URL('../docs/errors.md', import.meta.url), 'utf8');

test.each(Object.entries(ERROR_CODES) as [string, ErrorEntry][])(
  '%s is used and in the manual',
  (name, entry) => {
    expect(code).toContain(`'${name}'`);
    expect(page).toContain(
      `## ${name}\n\nSQLSTATE \`${entry.sqlstate}\`, HTTP ${entry.http}\n\n${entry.manual}\n`,
    );
    expect(entry.sqlstate).toMatch(/^[0-9A-Z]{5}$/);
    expect(entry.http).toBeGreaterThanOrEqual(400);
  },
);
