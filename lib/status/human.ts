/**
 * Numbers and times for people. Pure.
 */
import { JailError } from '../errors.js'

/** `999 B`, `1.2 kB`, `34 MB`: powers of 1000, two digits where small. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  let value = bytes
  let unit = 0
  // 999.5 of one unit would print as 1000.
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit += 1
  }
  const text = unit === 0 || value >= 9.95 ? value.toFixed(0) : value.toFixed(1)
  return `${text} ${units[unit] ?? ''}`
}

/** `5s`, `12m`, `3h05m`, `4d02h`. @param milliseconds negative counts as 0 */
export function formatDuration(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000))
  const two = (n: number): string => String(n).padStart(2, '0')
  const [m, h, d] = [
    Math.floor(seconds / 60),
    Math.floor(seconds / 3600),
    Math.floor(seconds / 86_400),
  ]
  if (m < 1) return `${String(seconds)}s`
  if (h < 1) return `${String(m)}m`
  if (d < 1) return `${String(h)}h${two(m % 60)}m`
  return `${String(d)}d${two(h % 24)}h`
}

const unitSeconds: ReadonlyMap<string, number> = new Map([
  ['s', 1],
  ['m', 60],
  ['h', 3600],
  ['d', 86_400],
  ['w', 604_800],
])

/** `10m` ago, or an ISO 8601 time. Milliseconds since the epoch. Throws USAGE. */
export function parseSince(text: string, now: number): number {
  const ago = /^(\d{1,6})([smhdw])$/.exec(text)
  if (ago) return now - Number(ago[1]) * (unitSeconds.get(ago[2] ?? '') ?? 0) * 1000
  const iso = /^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:\d{2})?)?$/
  const time = iso.test(text) ? Date.parse(text.replace(' ', 'T')) : NaN
  if (!Number.isNaN(time)) return time
  throw new JailError('USAGE', `--since ${JSON.stringify(text.slice(0, 40))} is not a time`, {
    hint: 'write how long ago (30s, 10m, 2h, 7d), or a time (2026-01-31T12:00)',
  })
}
