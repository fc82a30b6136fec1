/**
 * Host names and patterns: parse, normalise, match. The loader and the gate share this file.
 * Invariant: a pattern matches only names it visibly names; the apex is never inside its wildcard.
 * Whether a pattern is too broad to grant is decided in `breadth.ts`.
 */
import { domainToASCII, domainToUnicode } from 'node:url'
import { type Problem, problem, quote } from './problem.js'
import type { HostPattern } from './types.js'

/** RFC 1035 §2.3.4: a label has at most 63 octets, a name (as text, without the root dot) 253. */
const maxLabel = 63
const maxName = 253

// Underscores: service labels (`_acme.x`) and some real hosts have them; a top-level label never does.
const labelForm = /^[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?$/
const topLabelForm = /^[a-z](?:[a-z0-9-]*[a-z0-9])?$/

/**
 * The canonical form of a host name: lower case, without one trailing dot.
 * `undefined` for anything that is not a host name of at least two labels in ASCII: addresses,
 * single labels, empty labels, names too long. `localhost` is a single label, so it is refused too.
 */
export function normaliseName(text: string): string | undefined {
  const name = stripRootDot(text).toLowerCase()
  if (name.length === 0 || name.length > maxName) return undefined
  const labels = name.split('.')
  if (labels.length < 2) return undefined
  return labels.every(isLabel) && topLabelForm.test(labels.at(-1) ?? '') ? name : undefined
}

function isLabel(label: string): boolean {
  return label.length <= maxLabel && labelForm.test(label)
}

function stripRootDot(text: string): string {
  return text.endsWith('.') ? text.slice(0, -1) : text
}

/** Parses `name`, `*.name` (one more label) or `**.name` (one or more). Ports are not part of it. */
export function parseHostPattern(text: string): HostPattern | Problem {
  const given = quote(text)
  const outer = outerProblem(text, given)
  if (outer) return outer
  const pattern = stripRootDot(text).toLowerCase()
  if (/^\*{1,2}$/.test(pattern)) {
    return problem(`${given} grants every name`, 'name the hosts, e.g. api.example.com')
  }
  const kind = pattern.startsWith('**.') ? 'many' : pattern.startsWith('*.') ? 'one' : 'exact'
  const name = kind === 'exact' ? pattern : pattern.slice(pattern.indexOf('.') + 1)
  const inner = nameProblem(name, given, kind !== 'exact')
  return inner ?? { kind, name }
}

/** Things that are no host pattern at all: schemes, paths, users, addresses, spaces. */
function outerProblem(text: string, given: string): Problem | undefined {
  // Nearly every one: none of what follows can be in it, or be made of it.
  if (/^[a-z0-9.-]*\.[a-z][a-z0-9-]*$/.test(text)) return undefined
  if (text === '') return problem('the host is empty', 'write a name, e.g. api.example.com')
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(text)
  if (scheme) {
    const rest = text.slice(scheme[0].length).split(/[/?#]/)[0] ?? ''
    return problem(`${given} has a scheme`, `write the host alone${rest ? `: ${rest}` : ''}`)
  }
  if (/\s/.test(text)) return problem(`${given} has a space in it`, 'write one host an entry')
  if (text.includes('@')) return problem(`${given} has a user in it`, 'write the host alone')
  if (isAddressLike(text)) {
    return problem(`${given} is an address, not a name`, 'put it under network.cidrs')
  }
  if (/[/?#]/.test(text)) {
    const host = text.split(/[/?#]/)[0] ?? ''
    return problem(
      `${given} has a path`,
      `write the host alone${host ? `: ${host}` : ''}; paths go under rules with inspect: http`,
    )
  }
  if (text.includes(':')) {
    return problem(
      `${given} has a port in it`,
      'write the port under ports, or HOST:PORT as a plain entry',
    )
  }
  return undefined
}

/** As the URL standard has it: what ends in a number is meant as an IPv4 address. */
function isAddressLike(text: string): boolean {
  if (text.includes('[') || /^[0-9a-f:]*::?[0-9a-f:.]*(?:%.*)?(?:\/\d*)?$/i.test(text)) {
    if ((text.match(/:/g) ?? []).length >= 2 || text.includes('[')) return true
  }
  const last =
    stripRootDot(text.replace(/\/\d+$/, ''))
      .split('.')
      .at(-1) ?? ''
  return /^(?:\d+|0x[0-9a-f]*)$/i.test(last)
}

function nameProblem(name: string, given: string, wildcard: boolean): Problem | undefined {
  if (name.includes('*')) {
    return problem(
      `${given} has a wildcard inside`,
      'only a first label may be * (one label) or ** (one or more): *.example.com',
    )
  }
  if (!/^[\x21-\x7e]*$/.test(name)) {
    const ascii = domainToASCII(name)
    return problem(
      `${given} is not in ASCII`,
      ascii ? `write its punycode: ${wildcard ? '*.' : ''}${ascii}` : 'write its punycode (xn--…)',
    )
  }
  if (name.length > maxName) {
    return problem(
      `the host has ${String(name.length)} characters`,
      `at most ${String(maxName)} (RFC 1035)`,
    )
  }
  const labels = name.split('.')
  if (labels.includes('')) return problem(`${given} has an empty label`, 'one dot between labels')
  const long = labels.find((label) => label.length > maxLabel)
  if (long !== undefined) {
    return problem(
      `a label of ${given} has ${String(long.length)} characters`,
      `at most ${String(maxLabel)} (RFC 1035)`,
    )
  }
  const bad = labels.find((label) => !labelForm.test(label))
  if (bad !== undefined) {
    return problem(
      `${given}: ${quote(bad)} is not a host label`,
      'letters, digits and inner hyphens only',
    )
  }
  if (labels.some((label) => label.startsWith('xn--')) && !isPunycode(name)) {
    return problem(`${given} is not valid punycode`, 'check the xn-- label')
  }
  if (labels.length < 2 && !wildcard)
    return problem(`${given} has one label`, 'write its full name')
  if (!topLabelForm.test(labels.at(-1) ?? '')) {
    return problem(
      `${given} ends in no top-level domain`,
      'write a full name, e.g. api.example.com',
    )
  }
  return undefined
}

/** The pattern as it is written in a policy. */
export function formatHost(pattern: HostPattern): string {
  switch (pattern.kind) {
    case 'exact':
      return pattern.name
    case 'one':
      return `*.${pattern.name}`
    case 'many':
      return `**.${pattern.name}`
  }
}

/** `name` must be normalised (`normaliseName`). */
export function matchHost(pattern: HostPattern, name: string): boolean {
  if (pattern.kind === 'exact') return name === pattern.name
  const extra = name.length - pattern.name.length - 1
  if (extra < 1 || name[extra] !== '.' || !name.endsWith(pattern.name)) return false
  return pattern.kind === 'many' || !name.slice(0, extra).includes('.')
}

export interface HostMatcher<T> {
  /**
   * Every entry whose pattern matches, most specific first: the exact name, `*.parent`, then `**.x`
   * from the longest to the shortest; entries of one pattern keep their order.
   * `name` must be normalised.
   */
  match(name: string): readonly T[]
  has(name: string): boolean
}

/** Compiles entries to look-ups by name: matching costs one look-up a label, however many entries. */
export function compileMatcher<T extends { readonly host?: HostPattern }>(
  entries: readonly T[],
): HostMatcher<T> {
  const tables = {
    exact: new Map<string, T[]>(),
    one: new Map<string, T[]>(),
    many: new Map<string, T[]>(),
  }
  for (const entry of entries) {
    if (!entry.host) continue
    const table = tables[entry.host.kind]
    const bucket = table.get(entry.host.name)
    if (bucket) bucket.push(entry)
    else table.set(entry.host.name, [entry])
  }
  const match = (name: string): readonly T[] => {
    const found: T[] = [...(tables.exact.get(name) ?? [])]
    let dot = name.indexOf('.')
    if (dot > 0) found.push(...(tables.one.get(name.slice(dot + 1)) ?? []))
    if (tables.many.size === 0) return found
    for (; dot > 0; dot = name.indexOf('.', dot + 1)) {
      const bucket = tables.many.get(name.slice(dot + 1))
      if (bucket) found.push(...bucket)
    }
    return found
  }
  return { match, has: (name) => match(name).length > 0 }
}

/** Every label can be read. From Node 24 on `domainToASCII` alone passes over those that cannot. */
function isPunycode(name: string): boolean {
  const read = domainToUnicode(name)
  return domainToASCII(read) === name && !read.split('.').some((label) => label.startsWith('xn--'))
}
