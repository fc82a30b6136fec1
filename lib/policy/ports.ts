/**
 * Ports and ranges of ports.
 * Invariant: lists are sorted, merged and inside 1-65535; port 53 is never granted (the DNS filter's).
 */
import { type Problem, isProblem, problem, quote } from './problem.js'
import type { PortRange } from './types.js'

const right = 'write a port from 1 to 65535, or a range like "8000-8010"'

/** Parses `443` or `8000-8010`. */
export function parsePorts(value: string | number): PortRange | Problem {
  const text = String(value)
  const match = /^(\d{1,6})(?:-(\d{1,6}))?$/.exec(text)
  if (!match) return problem(`${quote(text)} is not a port`, right)
  const first = Number(match[1])
  const last = match[2] === undefined ? first : Number(match[2])
  const bad = [first, last].find((port) => port < 1 || port > 65535)
  if (bad !== undefined) return problem(`port ${String(bad)} is out of range`, right)
  if (first > last) {
    return problem(`the range ${text} runs backwards`, `write ${String(last)}-${String(first)}`)
  }
  return { first, last }
}

/** Refuses what no grant may open. */
function grantablePorts(range: PortRange): PortRange | Problem {
  if (!inRange(range, 53)) return range
  return problem(
    'port 53 always goes to the DNS filter',
    'leave it out; granted names are resolved without it',
  )
}

/** Parses and refuses in one. */
export function parseGrantPorts(value: string | number): PortRange | Problem {
  const range = parsePorts(value)
  return isProblem(range) ? range : grantablePorts(range)
}

export function inRange(range: PortRange, port: number): boolean {
  return range.first <= port && port <= range.last
}

export function hasPort(ranges: readonly PortRange[], port: number): boolean {
  return ranges.some((range) => inRange(range, port))
}

/** Sorted, overlapping and adjoining ranges made one. */
export function mergePorts(ranges: readonly PortRange[]): readonly PortRange[] {
  const sorted = [...ranges].sort((a, b) => a.first - b.first)
  const merged: PortRange[] = []
  for (const range of sorted) {
    const last = merged.at(-1)
    if (last && range.first <= last.last + 1) {
      merged[merged.length - 1] = { first: last.first, last: Math.max(last.last, range.last) }
    } else merged.push(range)
  }
  return merged
}

/** The ranges cut in two: the given single ports, and all others. */
export function splitPorts(
  ranges: readonly PortRange[],
  ports: readonly number[],
): { readonly named: readonly PortRange[]; readonly others: readonly PortRange[] } {
  const named = ports.filter((port) => hasPort(ranges, port)).sort((a, b) => a - b)
  let others = mergePorts(ranges)
  for (const port of named) {
    others = others.flatMap((range) =>
      inRange(range, port)
        ? [
            { first: range.first, last: port - 1 },
            { first: port + 1, last: range.last },
          ].filter((part) => part.first <= part.last)
        : [range],
    )
  }
  return { named: named.map((port) => ({ first: port, last: port })), others }
}

export function overlap(a: readonly PortRange[], b: readonly PortRange[]): boolean {
  return a.some((x) => b.some((y) => x.first <= y.last && y.first <= x.last))
}

export function formatPorts(range: PortRange): string {
  return range.first === range.last
    ? String(range.first)
    : `${String(range.first)}-${String(range.last)}`
}
