/**
 * The keys of a policy file, per kind of mapping, and what to suggest for one that is not known.
 * Invariant: this table, the parser and policies/policy.schema.json name the same keys (a test compares).
 */
import { quote } from './problem.js'

export const keys = {
  policy: [
    'version',
    'name',
    'description',
    'extends',
    'isolation',
    'network',
    'credentials',
    'env',
    'fs',
    'limits',
    'userNamespaces',
    'transparent',
  ],
  network: ['report', 'allow', 'deny', 'cidrs', 'loopback', 'ipv6', 'dns'],
  grant: [
    'host',
    'hosts',
    'ports',
    'proto',
    'inspect',
    'access',
    'rules',
    'within',
    'private',
    'credential',
    'limits',
    'reason',
  ],
  rule: ['method', 'path', 'query', 'json', 'maxBody'],
  grantLimits: ['conns', 'rps', 'uploadBytes'],
  deny: ['host', 'cidr', 'reason'],
  cidrGrant: ['cidr', 'ports', 'proto'],
  loopback: ['connect', 'listen'],
  dns: ['upstream', 'types', 'maxTtl', 'pinExtra', 'rate', 'wildcard', 'hosts'],
  wildcard: ['labels', 'labelLength', 'newNames'],
  credential: ['from', 'mode', 'in', 'format', 'env', 'optional'],
  exec: ['exec'],
  env: ['pass', 'set'],
  fs: ['read', 'write', 'deny'],
  limits: ['memory', 'cpu', 'pids', 'openFiles', 'tmp', 'time', 'egressBytes'],
} as const satisfies Record<string, readonly string[]>

export type KeySet = keyof typeof keys

/** Words that other tools or other places in the file use for ours. */
const synonyms: ReadonlyMap<string, string> = new Map([
  ['domain', 'host'],
  ['domains', 'hosts'],
  ['alloweddomains', 'allow'],
  ['denieddomains', 'deny'],
  ['block', 'deny'],
  ['protocol', 'proto'],
  ['methods', 'method'],
  ['paths', 'path'],
  ['filesystem', 'fs'],
  ['environment', 'env'],
  ['secrets', 'credentials'],
  ['mem', 'memory'],
  ['timeout', 'time'],
  ['cpus', 'cpu'],
  ['processes', 'pids'],
  ['source', 'from'],
  ['upload', 'uploadBytes'],
])

/** What to write instead of an unknown key. */
export function keyHint(unknown: string, known: readonly string[]): string {
  const near = nearest(unknown, known) ?? synonym(unknown, known)
  if (near !== undefined) return `did you mean ${near}?`
  return `known here: ${known.join(', ')}`
}

function synonym(unknown: string, known: readonly string[]): string | undefined {
  const other = synonyms.get(unknown.toLowerCase().replace(/[-_]/g, ''))
  return other !== undefined && known.includes(other) ? other : undefined
}

/** The closest of `known` within a third of its length in edits; for suggestions. */
export function nearest(text: string, known: readonly string[]): string | undefined {
  if (text.length > 64) return undefined
  const scored = known
    .map((word) => ({ word, edits: distance(text.toLowerCase(), word.toLowerCase()) }))
    .filter(({ word, edits }) => edits <= Math.max(1, Math.floor(word.length / 3)))
    .sort((a, b) => a.edits - b.edits)
  return scored[0]?.word
}

/** Edits between two words: insert, delete, replace, swap neighbours (optimal string alignment). */
function distance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)]
  const at = (i: number, j: number): number => rows[i]?.[j] ?? Infinity
  for (let i = 1; i <= a.length; i++) {
    rows[i] = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      const swapped =
        a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? at(i - 2, j - 2) + 1 : Infinity
      rows[i]?.push(Math.min(at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + cost, swapped))
    }
  }
  return at(a.length, b.length)
}

export function unknownKey(key: string, where: string): string {
  return `unknown key ${quote(key)} in ${where}`
}
