/**
 * The short summary on stderr at the end of a run.
 * Invariant: at most `maxLines` lines, whatever happened; nothing at all where nothing was blocked.
 */
import { type ExplainPolicy, explain } from './explain.js'
import type { DenialFold, FoldedDenial } from './fold.js'
import { type Palette, palette } from './palette.js'

const maxLines = 12
const maxDenials = 4
const maxAdditions = 3

export interface SummaryOptions {
  readonly jail: string
  readonly policy: ExplainPolicy & { readonly name: string; readonly source: string }
  /** Records that the log could not take. */
  readonly dropped: number
  readonly colour: boolean
}

/** The whole text with its line ends; empty where nothing was blocked and nothing dropped. */
export function renderSummary(fold: DenialFold, options: SummaryOptions): string {
  const colours = palette(options.colour)
  const lines = [...denialLines(fold, options, colours), ...droppedLines(options, colours)]
  return lines
    .slice(0, maxLines)
    .map((line) => `${line}\n`)
    .join('')
}

function denialLines(fold: DenialFold, options: SummaryOptions, c: Palette): string[] {
  if (fold.total === 0) return []
  const { jail, policy } = options
  const all = [...fold.entries()].sort((a, b) => b.count - a.count)
  const shown = all.slice(0, maxDenials)
  const explained = shown.map((entry) => ({
    entry,
    text: explain(entry.decision, policy, { jail }),
  }))
  const lines = [c.bold(`agentjail: ${jail}: blocked by policy ${policy.name}:`)]
  for (const { entry, text } of explained) {
    const where = text.where === undefined ? '' : ` (${text.where})`
    lines.push(`  ${c.red(text.what)} ${attempts(entry, text.who)}: ${text.why}${where}`)
  }
  const rest = fold.total - shown.reduce((sum, { count }) => sum + count, 0)
  if (rest > 0) lines.push(`  and ${String(rest)} more: agentjail logs ${jail} --denied`)
  const wanted = explained.filter(({ text }) => text.yaml !== undefined)
  const groups = additions(
    wanted.map(({ text }) => [text.under ?? 'network.allow', text.yaml ?? '']),
  )
  if (groups.length > 0) {
    const file = fileOf(policy.source)
    lines.push(`If it was wanted, add ${placeOf(policy.source, file)}:`)
    for (const [under, line] of groups.slice(0, maxAdditions)) {
      lines.push(`  under ${under}:  ${c.green(line)}`)
    }
    const destinations = [...new Set(wanted.flatMap(({ text }) => text.destination ?? []))]
    if (file !== undefined && isPlainPath(file) && destinations.length > 0) {
      lines.push(`  or run: agentjail allow ${file} ${destinations.join(' ')}`)
    }
  } else {
    const advice = explained.find(({ text }) => text.advice !== undefined)?.text.advice
    if (advice !== undefined) lines.push(`  ${advice}`)
  }
  return lines
}

/** Unlike look-ups and connections: one attempt of a program may be several look-ups (A, AAAA). */
function attempts({ decision, count }: FoldedDenial, who: string | undefined): string {
  const noun = decision.layer === 'dns' ? 'look-up' : 'attempt'
  return `(${String(count)} ${noun}${count === 1 ? '' : 's'}${who === undefined ? '' : ` by ${who}`})`
}

function additions(pairs: readonly (readonly [string, string])[]): (readonly [string, string])[] {
  const seen = new Set<string>()
  return pairs.filter(([under, line]) => {
    const key = `${under} ${line}`
    if (seen.has(key)) return false
    seen.add(key)
    return true
  })
}

/** Of several policies joined, the last that is a file. */
function fileOf(source: string): string | undefined {
  return source.split(' + ').findLast((part) => !part.startsWith('bundle:'))
}

/** A bundled policy is not edited: it is extended. */
function placeOf(source: string, file: string | undefined): string {
  return file === undefined
    ? `to a policy of your own with \`extends: [${source.split(' + ').join(', ')}]\``
    : `to ${file}`
}

/** As a shell takes it without quotes. */
function isPlainPath(path: string): boolean {
  return /^[\w./][\w./@+-]*$/.test(path)
}

function droppedLines({ jail, dropped }: SummaryOptions, c: Palette): string[] {
  if (dropped === 0) return []
  return [c.yellow(`agentjail: ${jail}: ${String(dropped)} records did not fit in the audit log`)]
}
