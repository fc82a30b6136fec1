/**
 * After the type-checked build: what a start needs as one file with its V8 code cache, all else as a bundle with lazy
 * parts, and the bundled policies compiled once instead of at every start. `dist/lib/bundle` has the depth of any other
 * folder of `dist/lib`, so that code which looks for its package by its own place finds it.
 */
import { build } from 'esbuild'
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { relative, resolve } from 'node:path'
import { listBundled, loadPolicy } from '../dist/lib/policy/loader.js'
import { policyToJson } from '../dist/lib/policy/json.js'
import { wrapper, writeCodeCache, writeLoader } from './code-cache.mjs'

const outdir = 'dist/lib/bundle'
const common = { bundle: true, platform: 'node', target: 'node20.19', legalComments: 'linked' }

/** Loaded on demand, but by nearly every run on Linux, or small: part of the file that asks for them. */
const hotImports = new Set([
  './commands/run.js',
  './linux-platform.js',
  '../../credentials/resolve.js',
  '../../credentials/environment.js',
  './placeholder.js',
  './java-trust.js',
])
/** Large, and waited for by every run with a policy of one's own, or with keys: files with a code cache as well. */
const warm = {
  'policy-loader': 'dist/lib/policy/loader.js',
  'gate-http-certificates': 'dist/lib/gate/http/certificates.js',
  'gate-http-serve': 'dist/lib/gate/http/serve.js',
}
/** Files that only some runs need: loaded as modules of their own when they are. */
const cold = new Map()

/** An `import()` in hot code becomes one of a file of the warm or the cold bundle. */
const splitCold = {
  name: 'split-cold',
  setup({ onResolve }) {
    onResolve({ filter: /./ }, ({ kind, path, resolveDir }) => {
      if (kind !== 'dynamic-import' || path.startsWith('node:') || hotImports.has(path)) return
      const isOwn = path.startsWith('.')
      const name = isOwn
        ? relative('dist/lib', resolve(resolveDir, path)).replace(/\.js$/, '').replaceAll('/', '-')
        : path
      if (name in warm) return { path: `./${name}.cjs`, external: true }
      cold.set(name, isOwn ? resolve(resolveDir, path) : path)
      return { path: `./${name}.js`, external: true }
    })
  },
}

const hot = {
  'agentjail-hot': 'dist/lib/cli/start.js',
  'gate-hot': 'dist/lib/gate/main.js',
  ...warm,
}
await build({
  ...common,
  entryPoints: hot,
  outdir,
  format: 'cjs',
  outExtension: { '.js': '.cjs' },
  define: { 'import.meta.url': 'agentjailUrl' },
  // A third less to read and to hash at each start; names and lines stay, for --debug.
  minifyWhitespace: true,
  minifySyntax: true,
  lineLimit: 160,
  banner: { js: "const agentjailUrl = require('node:url').pathToFileURL(__filename).href;" },
  plugins: [splitCold],
})
await build({
  ...common,
  entryPoints: Object.fromEntries(cold),
  outdir,
  splitting: true,
  format: 'esm',
  chunkNames: 'parts/../[name]-[hash]',
  // Some dependencies are CommonJS and ask for built-ins by require().
  banner: {
    js: "import { createRequire as agentjailRequire } from 'node:module'; const require = agentjailRequire(import.meta.url);",
  },
})

// Batteries of `verify`, which reach a jail as one file on standard input.
await build({
  ...common,
  entryPoints: {
    'verify-inside': 'dist/lib/verify/inside.js',
    'verify-inside-macos': 'dist/lib/verify/macos/inside.js',
  },
  outdir,
  format: 'esm',
})

for (const name of Object.keys(hot)) {
  const path = `${outdir}/${name}.cjs`
  const source = await readFile(path, 'latin1')
  const body = source.replaceAll(/\bimport\("/g, 'agentjailImport("')
  await writeFile(path, `${wrapper}{${body}\n})`, 'latin1')
  writeCodeCache(path)
}
for (const name of ['agentjail', 'gate']) writeLoader(`${outdir}/${name}.cjs`)
await mkdir('dist/bin', { recursive: true })
await copyFile('bin/agentjail.cjs', 'dist/bin/agentjail.cjs')

await mkdir(`${outdir}/policies`, { recursive: true })
for (const { name } of await listBundled()) {
  await writeFile(`${outdir}/policies/${name}.json`, policyToJson(await loadPolicy(name)))
}
