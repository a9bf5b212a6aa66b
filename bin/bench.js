/** `npm run bench -- NAME [ARGUMENTS]` runs `bench/NAME.ts`; without a name it lists them. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { prepare, run } from './prepare.js';

const folder = fileURLToPath(new URL('../bench/', import.meta.url));
const [name, ...rest] = process.argv.slice(2);

void run(async () => {
  const script = `${folder}${name}.ts`;
  if (name === undefined || !/^[\w-]+$/.test(name) || !existsSync(script)) {
    const names = readdirSync(folder).filter((file) => file.endsWith('.ts') && file !== 'measure.ts');
    console.error(
      `usage: npm run bench -- NAME\n${names.map((file) => `  ${file.slice(0, -3)}`).join('\n')}`,
    );
    return 2;
  }
  await prepare({ dev: true });
  return spawnSync(process.execPath, ['--import', 'tsx', script, ...rest], { stdio: 'inherit' }).status ?? 1;
});
