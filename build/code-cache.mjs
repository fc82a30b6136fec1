/**
 * The V8 code cache of a bundled file: every function compiled, so that a start compiles none.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { Script } from 'node:vm'

/** The source as `load-cached.cjs` wraps it: the cache belongs to exactly this text. */
const wrap = (source) =>
  `(function (require, module, exports, __filename, agentjailImport) {${source}\n})`

/** Writes `<path without .cjs>.cache`. */
export function writeCodeCache(path) {
  // Eager while compiling only: the cache records the flags, and a start has the default ones.
  setFlagsFromString('--no-lazy')
  const script = new Script(wrap(readFileSync(path, 'latin1')), { filename: path })
  setFlagsFromString('--lazy')
  writeFileSync(path.replace(/\.cjs$/, '.cache'), script.createCachedData())
}
