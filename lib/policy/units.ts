/**
 * Sizes and durations as people write them.
 * Invariant: bytes and seconds come out as safe integers; a bare number never changes its unit silently.
 */
import { type Problem, problem, quote } from './problem.js'

/** SI units are powers of 1000, IEC units powers of 1024 (IEC 80000-13). */
const sizeUnits: ReadonlyMap<string, number> = new Map([
  ['B', 1],
  ['kB', 1e3],
  ['KB', 1e3],
  ['MB', 1e6],
  ['GB', 1e9],
  ['TB', 1e12],
  ['KiB', 1024],
  ['MiB', 1024 ** 2],
  ['GiB', 1024 ** 3],
  ['TiB', 1024 ** 4],
])

const sizeHint = 'write a number and a unit: 500kB, 2MB, 1GiB'

/** Bytes. A bare whole number is bytes. */
export function parseSize(value: string | number): number | Problem {
  const text = String(value)
  const match = /^(\d{1,15}(?:\.\d{1,3})?) ?([A-Za-z]*)$/.exec(text)
  const unit = match?.[2] === '' ? 1 : sizeUnits.get(match?.[2] ?? '?')
  if (!match || unit === undefined) return problem(`${quote(text)} is not a size`, sizeHint)
  const bytes = Math.round(Number(match[1]) * unit)
  if (bytes < 1) return problem(`${quote(text)} is less than one byte`, sizeHint)
  if (!Number.isSafeInteger(bytes)) return problem(`${quote(text)} is too large`, sizeHint)
  return bytes
}

const timeUnits: ReadonlyMap<string, number> = new Map([
  ['s', 1],
  ['m', 60],
  ['h', 3600],
  ['d', 86400],
])

const timeHint = 'write a number and a unit: 30s, 10m, 2h, 1d'

/** Seconds. A bare whole number is seconds. */
export function parseDuration(value: string | number): number | Problem {
  const text = String(value)
  const match = /^(\d{1,9})([smhd]?)$/.exec(text)
  if (!match) return problem(`${quote(text)} is not a duration`, timeHint)
  return Number(match[1]) * (timeUnits.get(match[2] ?? '') ?? 1)
}

/** The shortest exact form. */
export function formatSize(bytes: number): string {
  const units = ['TiB', 'GiB', 'MiB', 'KiB', 'TB', 'GB', 'MB', 'kB'] as const
  const fits = units
    .map((unit) => ({ unit, count: bytes / (sizeUnits.get(unit) ?? 1) }))
    .filter(({ count }) => Number.isInteger(count))
    .sort((a, b) => a.count - b.count)[0]
  return fits ? `${String(fits.count)}${fits.unit}` : `${String(bytes)}B`
}

export function formatDuration(seconds: number): string {
  if (seconds === 0) return '0s'
  const unit = [...timeUnits].reverse().find(([, length]) => seconds % length === 0)
  return unit ? `${String(seconds / unit[1])}${unit[0]}` : `${String(seconds)}s`
}
