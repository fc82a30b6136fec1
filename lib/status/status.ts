/**
 * `agentjail status` as text. Pure.
 * Invariant: no line is wider than the terminal, and a warning is never cut.
 */
import { type Palette, palette } from '../audit/palette.js'
import { safeText } from '../audit/sanitise.js'
import type { Isolation } from '../policy/types.js'
import { formatBytes, formatDuration } from './human.js'

/** One jail as the registry, its gate and its log know it. */
export interface JailStatus {
  readonly name: string
  readonly policy: string
  readonly user: string
  readonly uid: number
  /** Of the command; absent while it starts or ends. */
  readonly pid?: number
  readonly isolation: Isolation
  readonly phase: 'starting' | 'running' | 'ending' | 'dead'
  /** Milliseconds since the epoch. */
  readonly since: number
  readonly command: readonly string[]
  readonly allowed: number
  readonly denied: number
  /** Bytes from the jail, and to it. */
  readonly up: number
  readonly down: number
  readonly pins: number
  readonly warnings: readonly string[]
}

export interface StatusView {
  /** Milliseconds since the epoch. */
  readonly now: number
  /** Absent: not a terminal, nothing is shortened. */
  readonly columns?: number
  readonly colour: boolean
}

interface Column {
  readonly title: string
  readonly isNumber: boolean
  readonly text: (jail: JailStatus, now: number) => string
}

const columns: readonly Column[] = [
  { title: 'NAME', isNumber: false, text: ({ name }) => name },
  { title: 'POLICY', isNumber: false, text: ({ policy }) => safeText(policy) },
  { title: 'USER', isNumber: false, text: ({ user }) => user },
  { title: 'PID', isNumber: true, text: ({ pid }) => (pid === undefined ? '-' : String(pid)) },
  { title: 'UP', isNumber: true, text: upText },
  { title: 'ALLOWED', isNumber: true, text: ({ allowed }) => String(allowed) },
  { title: 'DENIED', isNumber: true, text: ({ denied }) => String(denied) },
  { title: 'SENT', isNumber: true, text: ({ up }) => formatBytes(up) },
  { title: 'RECEIVED', isNumber: true, text: ({ down }) => formatBytes(down) },
  { title: 'PINS', isNumber: true, text: ({ pins }) => String(pins) },
]

/** Left away one after another where the terminal is too narrow: what others tell too goes first. */
const dispensable = ['USER', 'PINS', 'PID', 'RECEIVED', 'SENT', 'ALLOWED'] as const

function upText({ phase, since }: JailStatus, now: number): string {
  return phase === 'running' ? formatDuration(now - since) : phase
}

/** With line ends; a sentence where there is no jail. */
export function renderStatus(jails: readonly JailStatus[], view: StatusView): string {
  if (jails.length === 0) return 'no jail is running\n'
  const sorted = [...jails].sort((a, b) => (a.name < b.name ? -1 : 1))
  const width = view.columns ?? Infinity
  let chosen = columns
  let lines = layOut(sorted, chosen, view.now)
  for (const title of dispensable) {
    if (widest(lines) <= width) break
    chosen = chosen.filter((column) => column.title !== title)
    lines = layOut(sorted, chosen, view.now)
  }
  const c = palette(view.colour)
  const [head = '', ...rows] = lines
  const text = [
    c.bold(cut(head, width)),
    ...rows.flatMap((row, i) => [cut(row, width), ...warningLines(sorted[i], c)]),
  ]
  return `${text.join('\n')}\n`
}

function layOut(jails: readonly JailStatus[], chosen: readonly Column[], now: number): string[] {
  const cells = [
    chosen.map(({ title }) => title),
    ...jails.map((jail) => chosen.map(({ text }) => text(jail, now))),
  ]
  const widths = chosen.map((_, i) => Math.max(...cells.map((row) => row[i]?.length ?? 0)))
  return cells.map((row) =>
    row
      .map((cell, i) => {
        const width = widths[i] ?? 0
        return chosen[i]?.isNumber === true ? cell.padStart(width) : cell.padEnd(width)
      })
      .join('  ')
      .trimEnd(),
  )
}

function warningLines(jail: JailStatus | undefined, c: Palette): string[] {
  return (jail?.warnings ?? []).map((warning) => c.yellow(`  ! ${safeText(warning)}`))
}

function widest(lines: readonly string[]): number {
  return Math.max(...lines.map(({ length }) => length))
}

function cut(line: string, width: number): string {
  return line.length <= width ? line : `${line.slice(0, width - 1)}…`
}
