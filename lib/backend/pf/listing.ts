/**
 * Reads what pfctl prints. Pure.
 * Invariant: what is not understood is never taken for "as expected".
 */
import { canonicalAddress } from '../../policy/addresses.js'

/** `https/tcp` -> 443, from services(5): pfctl of some releases lists single ports by name where they have one. */
export type Services = ReadonlyMap<string, number>

export function parseServices(text: string): Services {
  const services = new Map<string, number>()
  for (const line of text.split('\n')) {
    const [entry = ''] = line.split('#')
    const [name, where, ...aliases] = entry.trim().split(/\s+/)
    const match = /^(\d{1,5})\/(tcp|udp)$/.exec(where ?? '')
    if (name === undefined || match?.[1] === undefined) continue
    for (const each of [name, ...aliases])
      if (!services.has(`${each}/${match[2] ?? ''}`))
        services.set(`${each}/${match[2] ?? ''}`, Number(match[1]))
  }
  return services
}

/** The first difference between what is listed and what was written, in words; undefined: none. */
export function findDifference(
  expected: readonly string[],
  listed: string,
  services: Services,
): string | undefined {
  const lines = listed
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => plainAddresses(numericPorts(line, services)))
  for (const [index, rule] of expected.entries()) {
    const line = lines[index]
    if (line === undefined) return `missing: ${rule}`
    if (line !== rule) return `expected: ${rule}; found: ${line.slice(0, 300)}`
  }
  const extra = lines[expected.length]
  return extra === undefined ? undefined : `unexpected: ${extra.slice(0, 300)}`
}

function numericPorts(line: string, services: Services): string {
  const proto = / proto (tcp|udp) /.exec(line)?.[1] ?? ''
  return line.trimEnd().replace(/ port = ([A-Za-z][\w.-]*)/g, (whole, name: string) => {
    const port = services.get(`${name}/${proto}`)
    return port === undefined ? whole : ` port = ${String(port)}`
  })
}

/** inet_ntop(3) of macOS writes the low half of `::5:6` as dotted IPv4: `::0.5.0.6`. */
function plainAddresses(line: string): string {
  return line.replace(/(?<=\s)::[0-9a-f:]*(?:\d{1,3}\.){3}\d{1,3}/g, (text) => canonical(text))
}

function canonical(text: string): string {
  return canonicalAddress(text) ?? text
}

/** From `pfctl -s info`; undefined where there is no status line. */
export function parseEnabled(info: string): boolean | undefined {
  const match = /^Status: (Enabled|Disabled)/m.exec(info)
  return match === null ? undefined : match[1] === 'Enabled'
}

/** From `pfctl -E`, which writes to standard error, and nothing at all with -q. */
export function parseToken(stderr: string): string | undefined {
  return /^Token : (\d{1,20})\s*$/m.exec(stderr)?.[1]
}

/** Tokens in force and the pid of the pfctl that took each, from `pfctl -s References`. */
export function parseReferences(text: string): ReadonlyMap<string, number> {
  const tokens = new Map<string, number>()
  for (const line of text.split('\n')) {
    // PID, process name (which may hold spaces), token, time stamp: `0 days 00:00:11`.
    const match = /^(\d+)\s+\S.*?\s(\d{1,20})\s+\d+ days? /.exec(line)
    if (match?.[2] !== undefined) tokens.set(match[2], Number(match[1]))
  }
  return tokens
}

/** From `pfctl -v -s Interfaces`: `lo0 (skip)`. */
export function parseSkipped(text: string): string[] {
  return [...text.matchAll(/^(\S+) \(skip\)$/gm)].map(([, name]) => name ?? '')
}

/** From `pfctl -T show`. */
export function parseTable(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .map((entry) => entry.replace(/^[^/]+/, canonical))
}

export interface StateEnds {
  readonly left: string
  readonly right: string
}

/**
 * From `pfctl -s states`: the addresses of both ends, without ports. Of a translated connection a third one stands
 * between: `ALL tcp 10.0.0.2:5000 -> 192.168.1.10:61000 -> 203.0.113.25:465`.
 */
export function parseStates(text: string): StateEnds[] {
  return text.split('\n').flatMap((line) => {
    const addresses = line.split(/\s+/).flatMap((word) => addressOf(word) ?? [])
    const [left, right] = [addresses.at(0), addresses.at(-1)]
    if (left === undefined || right === undefined || addresses.length < 2) return []
    return [{ left, right }]
  })
}

/** `192.0.2.1:443` or `2001:db8::1[443]`; what follows is hexadecimal for ESP, `~` marks UDP filtered by address only. */
function addressOf(word: string): string | undefined {
  const bare = word.replaceAll('~', '').replace(/(\[[0-9a-f]+\]|(?<=^[\d.]+):[0-9a-f]+)$/, '')
  return canonicalAddress(bare)
}

/** How agentjail's anchor is reached from the main ruleset. */
export interface Place {
  /** The line that calls it is there. */
  readonly called: boolean
  /** A rule before that line lets packets past every later rule. */
  readonly overtakenBy: string | undefined
  /** Other anchors that are evaluated before. */
  readonly before: readonly string[]
}

/** `listing`: `pfctl -sr` of the main ruleset; or `-sn`, for the place of redirects. */
export function findPlace(listing: string, anchor: string, word: 'anchor' | 'rdr-anchor'): Place {
  const wanted = anchor.startsWith('com.apple/') ? 'com.apple/*' : anchor
  const before: string[] = []
  let overtakenBy: string | undefined
  for (const line of listing.split('\n').map((each) => each.trim())) {
    if (line === `${word} "${wanted}" all`) return { called: true, overtakenBy, before }
    const other = new RegExp(`^${word} "([^"]+)"`).exec(line)?.[1]
    if (other !== undefined) before.push(other)
    if (/^pass\b.*\bquick\b/.test(line)) overtakenBy ??= line
  }
  return { called: false, overtakenBy, before }
}
