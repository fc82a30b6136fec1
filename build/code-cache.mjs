/**
 * The V8 code cache of a bundled file: every function compiled, so that a start compiles none.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { Script } from 'node:vm'

/** What goes before a bundled file's body, so that it is read as the one function which `load-cached.cjs` calls. */
export const wrapper = '(function (require, module, exports, __filename, agentjailImport) '

/** Writes `<path without .cjs>.cache`. */
export function writeCodeCache(path) {
  // Eager while compiling only: the cache records the flags, and a start has the default ones.
  setFlagsFromString('--no-lazy')
  const script = new Script(readFileSync(path, 'latin1'), { filename: path })
  setFlagsFromString('--lazy')
  writeFileSync(path.replace(/\.cjs$/, '.cache'), script.createCachedData())
}
