/**
 * The code cache of a start: of use to the very Node that made it, and never given to another, whose V8 may crash on it.
 * Judge: V8 takes code from a cache for that of any source of the same length, so which text runs tells.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'

interface CodeCache {
  readonly wrapper: string
  writeCodeCache(path: string): void
  writeLoader(path: string): void
}

const url = new URL('../../build/code-cache.mjs', import.meta.url).href
const { wrapper, writeCodeCache, writeLoader } = (await import(url)) as CodeCache

const dir = mkdtempSync(join(tmpdir(), 'agentjail-cache-'))
t.teardown(() => {
  rmSync(dir, { recursive: true })
})
const [loader, hot, cachePath] = ['x.cjs', 'x-hot.cjs', 'x-hot.cache'].map((name) =>
  join(dir, name),
) as [string, string, string]
const source = (text: string) => `${wrapper}{ console.log('${text}') })`
const runs = () => spawnSync(process.execPath, [loader], { encoding: 'utf8' }).stdout.trim()

writeLoader(loader)
writeFileSync(hot, source('cached'))
writeCodeCache(hot)
writeFileSync(hot, source('source'))
const cache = readFileSync(cachePath)

t.equal(runs(), 'cached', 'its own is used')
const end = cache.indexOf('\n') + 1
t.equal(end % 8, 0, 'the data is aligned')
const key = cache.toString('latin1', 0, end)
t.match(key, `${process.platform} ${process.arch} ${process.version} v8_`)
const others = [
  ['processor', process.arch, 'arm63'],
  ['system', process.platform, 'linus'],
  ['Node', process.version, process.version.replace(/\d$/, 'x')],
  ['build', 'v8_enable_sandbox,0', 'v8_enable_sandbox,1'],
] as const
for (const [title, mine, theirs] of others) {
  const other = key.replace(mine, theirs.padEnd(mine.length).slice(0, mine.length))
  t.not(other, key, `${title}: another key`)
  writeFileSync(cachePath, Buffer.concat([Buffer.from(other, 'latin1'), cache.subarray(end)]))
  t.equal(runs(), 'source', `one of another ${title} is not`)
}
writeFileSync(cachePath, cache.subarray(end))
t.equal(runs(), 'source', 'nor one without a key')
rmSync(cachePath)
t.equal(runs(), 'source', 'none is needed')

// What hot code asks for by import(): another such file, run once and from its own cache; or a module.
writeFileSync(join(dir, 'y.cjs'), source('cached'))
writeCodeCache(join(dir, 'y.cjs'))
writeFileSync(join(dir, 'y.cjs'), source('source'))
writeFileSync(
  hot,
  `${wrapper}{ Promise.all(['./y.cjs', './y.cjs', 'node:path'].map(agentjailImport)).then(([a, b, path]) => console.log(a === b, path.sep)) })`,
)
t.equal(runs(), 'cached\ntrue /', 'another file of the build runs once, from its cache')
