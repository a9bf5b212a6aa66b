import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';

const COUNT = 5;

export async function lastLines(logs: readonly string[]): Promise<string> {
  const parts = await Promise.all(
    logs.map(async (path) => {
      const text = await readFile(path, 'utf8').catch(() => '');
      return [`${basename(path)}:`, ...text.trim().split('\n').slice(-COUNT)].join('\n  ');
    }),
  );
  return parts.join('\n');
}
