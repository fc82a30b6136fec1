/**
 * `npm run bench [-- --quick] [-- --only start,gate]`: every bench, one after another; raw output under bench/results,
 * tables and plots into docs/performance.md. A part that is measured alone takes the place of its last measurement.
 * Exit code 0 whatever the figures are: no timing fails.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../test/lab/paths.js'
import { currentLoad, machineFacts } from './machine.js'
import { barLines, writeDocs } from './report.js'
import type { MeasuredPart, Options, Part } from './types.js'

const parts: Readonly<Record<string, () => Promise<(options: Options) => Promise<Part>>>> = {
  start: async () => (await import('./start.js')).start,
  steady: async () => (await import('./steady.js')).steady,
  gate: async () => (await import('./children.js')).gate,
  scale: async () => (await import('./scale.js')).scale,
  audit: async () => (await import('./children.js')).audit,
}

/** Milliseconds: a part that hangs is reported as missing, and the others still run. */
const partLimit = 600_000

async function within<T>(limit: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`it did not end within ${limit / 1000} s`))
    }, limit)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** What was measured the same day. */
function earlier(path: string): readonly MeasuredPart[] {
  if (!existsSync(path)) return []
  return (JSON.parse(readFileSync(path, 'utf8')) as { parts: MeasuredPart[] }).parts
}

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    'write-docs': { type: 'boolean', default: false },
  },
})
if (process.getuid?.() !== 0) throw new Error('the bench needs root: it makes network namespaces')
const wanted = values.only?.split(',') ?? Object.keys(parts)
const machine = machineFacts()
const date = new Date().toISOString()
const done: MeasuredPart[] = []
for (const name of wanted) {
  const load = parts[name]
  if (load === undefined) throw new Error(`no part ${name}: ${Object.keys(parts).join(', ')}`)
  process.stderr.write(`${name} ...\n`)
  const measured = { key: name, date: new Date().toISOString(), load: currentLoad() }
  try {
    done.push({
      ...measured,
      ...(await within(partLimit, (await load())({ quick: values.quick }))),
    })
  } catch (error) {
    process.stderr.write(
      `${name} failed: ${error instanceof Error ? (error.stack ?? '') : String(error)}\n`,
    )
    done.push({
      ...measured,
      ...{ title: name, bars: [], tables: [], plots: [], raw: undefined, notes: [] },
      missing: [`the whole part: ${String(error)}`],
    })
  }
}
const results = join(root, 'bench/results')
mkdirSync(results, { recursive: true })
const file = join(results, values.quick ? 'quick.json' : `${date.slice(0, 10)}.json`)
const all = Object.keys(parts).flatMap(
  (key) =>
    done.find((part) => part.key === key) ?? earlier(file).find((part) => part.key === key) ?? [],
)
writeFileSync(file, `${JSON.stringify({ date, machine, quick: values.quick, parts: all })}\n`)
if (!values.quick || values['write-docs']) await writeDocs(root, machine, all)
process.stdout.write(barLines(done))
for (const what of done.flatMap(({ missing }) => missing))
  process.stdout.write(`missing: ${what}\n`)
process.stdout.write(`raw: ${file}\n`)
process.exit(0)
