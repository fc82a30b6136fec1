/**
 * The V8 code cache of a bundled file: every function compiled, so that a start compiles none.
 * Invariant: a cache begins with the key of the Node that made it, and no other is given it. V8 looks at its own
 * version, its flags and the length of the source alone: with the same version's cache of another processor it crashes.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { Script } from 'node:vm'

/** What goes before a bundled file's body, so that it is read as the one function which `load-cached.cjs` calls. */
export const wrapper = '(function (require, module, exports, __filename, agentjailImport) '

/** Bytes, a multiple of 8, since V8 copies data that is not aligned. Its text goes into `load-cached.cjs`. */
function cacheKey() {
  const variables = Object.entries(process.config.variables).filter(([name]) => /^v8_/.test(name))
  const { platform, arch, version } = process
  const text = [platform, arch, version, ...variables].join(' ')
  return Buffer.from(`${text.padEnd(Math.ceil((text.length + 1) / 8) * 8 - 1)}\n`, 'latin1')
}

/** Writes `<path without .cjs>.cache`. */
export function writeCodeCache(path) {
  // Eager while compiling only: the cache records the flags, and a start has the default ones.
  setFlagsFromString('--no-lazy')
  const script = new Script(readFileSync(path, 'latin1'), { filename: path })
  setFlagsFromString('--lazy')
  const data = script.createCachedData()
  writeFileSync(path.replace(/\.cjs$/, '.cache'), Buffer.concat([cacheKey(), data]))
}

/** Writes the program at `path`, which runs `<path without .cjs>-hot.cjs`. */
export function writeLoader(path) {
  const loader = readFileSync(new URL('load-cached.cjs', import.meta.url), 'utf8')
  writeFileSync(
    path,
    loader.replace('// build: cacheKey', () => String(cacheKey)),
  )
}
