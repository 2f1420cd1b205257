// Writes `.gz` and `.br` beside every built file that gets smaller by it.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const dist = "dist";
const compressible = /\.(js|css|html|svg|json|webmanifest)$/;

for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !compressible.test(entry.name) || entry.name === "index.html") continue;
  const path = join(entry.parentPath, entry.name);
  const bytes = readFileSync(path);
  const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } };
  for (const [ending, packed] of [[".gz", gzipSync(bytes, { level: 9 })], [".br", brotliCompressSync(bytes, quality)]]) {
    if (packed.length < bytes.length * 0.95) writeFileSync(path + ending, packed);
  }
}
