/** `npm run docs`: writes the pages that are made from tables; with `--check`, says which are out of date. */
import { readFileSync, writeFileSync } from 'node:fs';
import { configurationPage } from '../config/configuration-page.ts';
import { errorsPage } from './errors-page.ts';

const pages = { 'configuration.md': configurationPage(), 'errors.md': errorsPage() };
const check = process.argv.includes('--check');
for (const [name, text] of Object.entries(pages)) {
  const file = new URL(`../../docs/${name}`, import.meta.url);
  if (!check) writeFileSync(file, text);
  else if (readFileSync(file, 'utf8') !== text) {
    console.error(`docs/${name} is out of date: run npm run docs and commit it.`);
    process.exitCode = 1;
  }
}
