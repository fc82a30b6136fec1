'use strict'
/**
 * Runs `<its own name>-hot.cjs` with the code cache beside it, which the build made: V8 then compiles nothing.
 * A cache of another Node, processor or system is not looked at: the code is compiled as usual then.
 */
const { readFileSync } = require('node:fs')
const { Script } = require('node:vm')
// build: cacheKey

const path = __filename.replace(/\.cjs$/, '-hot.cjs')
let cachedData
try {
  const cache = readFileSync(path.replace(/\.cjs$/, '.cache'))
  const key = cacheKey()
  if (cache.subarray(0, key.length).equals(key)) cachedData = cache.subarray(key.length)
} catch {
  // None was built.
}
// esbuild writes ASCII only.
const text = readFileSync(path, 'latin1')
// Code from a cache has lost the way to import() in this process: it uses this file's.
new Script(text, { filename: path, cachedData }).runInThisContext()(
  require,
  module,
  module.exports,
  path,
  (name) => import(name),
)
