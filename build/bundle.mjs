/**
 * After the type-checked build: one bundle with lazy parts, so that a start reads few files, and the bundled policies
 * compiled once instead of at every start. `dist/lib/bundle` has the depth of any other folder of `dist/lib`,
 * so that code which looks for its package by its own place finds it.
 */
import { build } from 'esbuild'
import { mkdir, writeFile } from 'node:fs/promises'
import { listBundled, loadPolicy } from '../dist/lib/policy/loader.js'
import { policyToJson } from '../dist/lib/policy/json.js'

const outdir = 'dist/lib/bundle'

await build({
  entryPoints: { agentjail: 'dist/lib/cli/start.js', gate: 'dist/lib/gate/main.js' },
  outdir,
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  chunkNames: 'parts/../[name]-[hash]',
  legalComments: 'linked',
  // Some dependencies are CommonJS and ask for built-ins by require().
  banner: {
    js: "import { createRequire as agentjailRequire } from 'node:module'; const require = agentjailRequire(import.meta.url);",
  },
})

await mkdir(`${outdir}/policies`, { recursive: true })
for (const { name } of await listBundled()) {
  await writeFile(`${outdir}/policies/${name}.json`, policyToJson(await loadPolicy(name)))
}
