// Puts a .br and a .gz beside each built file that gets smaller by it, for the API to send: packed once, as well as it goes.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';

const PACKED = /\.(css|js|json|map|svg|txt|webmanifest)$/;
const SMALLEST = 1024;
const folder = process.argv[2];

for (const name of readdirSync(folder, { recursive: true })) {
  if (!PACKED.test(name)) continue;
  const path = join(folder, name);
  const plain = readFileSync(path);
  if (plain.length < SMALLEST) continue;
  writeFileSync(`${path}.br`, brotliCompressSync(plain));
  writeFileSync(`${path}.gz`, gzipSync(plain, { level: 9 }));
}
