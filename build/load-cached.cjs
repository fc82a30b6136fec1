'use strict'
/**
 * Runs `<its own name>-hot.cjs` with the code cache beside it, which the build made: V8 then compiles nothing.
 * A cache of another Node, processor or system is not looked at: the code is compiled as usual then.
 */
const { readFileSync } = require('node:fs')
const { join } = require('node:path')
const { Script } = require('node:vm')
// build: cacheKey

/** Runs a file that the build wrapped; gives what it exports. */
function load(path) {
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
  const module = { exports: {} }
  new Script(text, { filename: path, cachedData }).runInThisContext()(
    require,
    module,
    module.exports,
    path,
    importFile,
  )
  return module.exports
}

const loaded = new Map()

/** `import()` of such a file: another one, once, or a module. Code from a cache has lost its own way to import(). */
async function importFile(name) {
  if (!name.endsWith('.cjs')) return await import(name)
  if (!loaded.has(name)) loaded.set(name, load(join(__dirname, name)))
  return loaded.get(name)
}

load(__filename.replace(/\.cjs$/, '-hot.cjs'))
