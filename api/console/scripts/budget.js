// Adds up the script that a first page loads (the frame, a screen and all that they import),
// compressed, and fails above the budget. Run by `npm run build`.
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const BUILT = new URL('../../browser/built/', import.meta.url);
const BUDGET_KB = 350;
// What each first screen loads besides the frame.
const FIRST_SCREENS = {
  overview: ['src/screens/organisation/overview/Overview.tsx', 'src/parts/StackedBars.tsx'],
  'my credits': ['src/screens/me/Balance.tsx'],
  system: ['src/screens/system/Overview.tsx'],
};

const manifest = JSON.parse(readFileSync(new URL('manifest.json', BUILT), 'utf8'));

function filesOf(entry, found = new Set()) {
  const chunk = manifest[entry];
  if (!chunk) throw new Error(`${entry} is not in the build: mend FIRST_SCREENS`);
  if (!found.has(chunk.file)) {
    found.add(chunk.file);
    for (const imported of chunk.imports ?? []) filesOf(imported, found);
  }
  return found;
}

const kilobytesOf = (files) =>
  [...files]
    .filter((file) => file.endsWith('.js'))
    .reduce((sum, file) => sum + gzipSync(readFileSync(new URL(file, BUILT))).length, 0) / 1000;

const shell = filesOf('index.html');
let largest = 0;
for (const [name, entries] of Object.entries(FIRST_SCREENS)) {
  const files = entries.flatMap((entry) => [...filesOf(entry)]);
  const size = kilobytesOf(new Set([...shell, ...files]));
  largest = Math.max(largest, size);
  console.log(`first load of ${name}: ${size.toFixed(1)} kB of script, gzipped`);
}
if (largest > BUDGET_KB) {
  console.error(`The first load may be ${BUDGET_KB} kB: load a part of it later (import()).`);
  process.exit(1);
}
