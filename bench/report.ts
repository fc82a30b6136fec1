/** What was measured as text: for the terminal, and for docs/performance.md between its two markers. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { format } from 'prettier'
import type { Machine } from './machine.js'
import { digits } from './statistics.js'
import { isMet, type Bar, type MeasuredPart, type Part } from './types.js'
import { whyNot } from './why.js'

const markers = ['<!-- figures: written by npm run bench -->', '<!-- end of figures -->'] as const

const verdict = (bar: Bar): string => {
  const met = isMet(bar)
  return met === undefined ? 'not measured' : met ? 'met' : 'NOT met'
}

const limitOf = ({ sense, limit, unit }: Bar): string => `${sense} ${digits(limit)} ${unit}`

/** One line a bar; below what is not met, why. */
export const barLines = (parts: readonly Part[]): string => {
  const bars = parts.flatMap((part) => part.bars)
  const lines = bars.map(
    (bar) =>
      `${verdict(bar).padEnd(12)} ${digits(bar.figure)} ${bar.unit} (${limitOf(bar)}): ${bar.text}\n`,
  )
  return [
    ...lines,
    ...notMet(bars).map(({ why, texts }) => `\nNot met: ${texts}.\nWhy: ${why}\n`),
  ].join('')
}

/** Bars that are not met, those with one reason together. */
function notMet(bars: readonly Bar[]): { readonly why: string; readonly texts: string }[] {
  const byReason = new Map<string, string[]>()
  for (const bar of bars) {
    if (isMet(bar) !== false) continue
    const why = whyNot(bar.text) ?? 'nobody has looked into it.'
    byReason.set(why, [...(byReason.get(why) ?? []), bar.text])
  }
  return [...byReason].map(([why, texts]) => ({ why, texts: texts.join('; ') }))
}

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')

function markdown(machine: Machine, parts: readonly MeasuredPart[]): string {
  const facts = `On ${machine.cpus} x ${machine.cpu}, ${machine.memoryMB} MB, Linux ${machine.kernel}, Node ${machine.node}, ${machine.nft}.`
  const bars = parts.flatMap((part) =>
    part.bars.map((bar) => [
      bar.text,
      `${digits(bar.figure)} ${bar.unit}`,
      limitOf(bar),
      verdict(bar),
    ]),
  )
  const sections = parts.flatMap(({ title, date, load, tables, plots, missing, notes }) => [
    `### ${title}`,
    `Measured ${date}, one-minute load ${load} before it.`,
    ...tables.map((one) => `${one.title}\n\n${table(one.head, one.rows)}`),
    ...plots.map(({ name }) => `![${name}](performance/${name}.svg)`),
    ...missing.map((what) => `Missing: ${what.replaceAll('\n', ' ')}.`),
    ...notes,
  ])
  const reasons = notMet(parts.flatMap((part) => part.bars))
  return [
    ...[facts, '### Bars', table(['what', 'figure', 'bar', 'verdict'], bars)],
    ...reasons.map(({ why, texts }) => `Not met: ${texts}. Why: ${why}`),
    ...sections,
  ].join('\n\n')
}

/** Writes figures and plots; the words around the markers are kept. */
export async function writeDocs(
  root: string,
  machine: Machine,
  parts: readonly MeasuredPart[],
): Promise<void> {
  const path = join(root, 'docs/performance.md')
  const text = readFileSync(path, 'utf8')
  const [start, end] = markers.map((marker) => text.indexOf(marker)) as [number, number]
  if (start < 0 || end < start) throw new Error(`${path}: its markers are gone`)
  const whole = `${text.slice(0, start + markers[0].length)}\n\n${markdown(machine, parts)}\n\n${text.slice(end)}`
  writeFileSync(path, await format(whole, { parser: 'markdown' }))
  mkdirSync(join(root, 'docs/performance'), { recursive: true })
  for (const { name, svg } of parts.flatMap(({ plots }) => plots))
    writeFileSync(join(root, `docs/performance/${name}.svg`), svg)
}
