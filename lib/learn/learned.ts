/**
 * Observations to a commented policy: the narrowest grants that cover them. Pure.
 * Invariant: nothing is granted that was not seen: a bundled policy is reused only where every host and
 * port that it opens was connected to, and no wildcard is ever written.
 */
import { stringify } from 'yaml'
import { matchPath } from '../gate/http/path-rules.js'
import { normaliseSegments } from '../gate/http/target.js'
import { reasons } from '../audit/record.js'
import { classifyAddress } from '../policy/addresses.js'
import { formatHost } from '../policy/hosts.js'
import { hasPort } from '../policy/ports.js'
import type { Grant, Policy } from '../policy/types.js'
import type { Destination, Observed, Refused } from './observe.js'
import { learnRules } from './rules.js'

export interface Bundle {
  readonly name: string
  readonly policy: Policy
}

export interface LearnedRequest {
  readonly name: string
  /** The program's name alone: arguments may hold keys. */
  readonly command: string
  readonly observed: Observed
  readonly bundles: readonly Bundle[]
  /** Policies that the run had already, as the new file shall name them. */
  readonly bases: readonly string[]
  /** Variables that the command was given. */
  readonly pass: readonly string[]
  /** Requests were looked into. */
  readonly http: boolean
}

/** The text of a policy file, newline at the end. */
export function learnedPolicy(request: LearnedRequest): string {
  const { observed, bundles, bases, pass } = request
  const names = observed.destinations.filter(({ isName, proto }) => isName && proto === 'tcp')
  const chosen = chooseBundles(bundles, names, request.http)
  const rest = names.filter((seen) => !chosen.some(({ policy }) => grants(policy, seen)))
  const cidrs = observed.destinations.filter(({ isName }) => !isName)
  const allow = byHost(rest).flatMap((group) => allowLines(group, request, bundles))
  const lines = [
    `# Learned from a run of ${request.command}: what it connected to, and nothing else.`,
    '# Read it before you trust it: whatever the command did then is allowed from now on.',
    'version: 1',
    `name: ${request.name}`,
    ...extendLines(bases, chosen, names),
    ...(allow.length + cidrs.length > 0 ? ['network:'] : []),
    ...(allow.length > 0 ? ['  allow:', ...allow] : []),
    ...(cidrs.length > 0 ? ['  # By address, with no name asked for.', '  cidrs:'] : []),
    ...cidrs.map((seen) => `    - ${cidrEntry(seen)} # ${traffic(seen)}`),
    ...remarks(
      '  # Asked for and never connected to; add one if the command misses it:',
      [...observed.lookedUp].map((name) => `  #   - ${name}`),
    ),
    ...remarks('  # Refused or failed while learning, and not in here:', refusedLines(observed)),
    ...(pass.length > 0 ? ['env:', `  pass: [${pass.join(', ')}]`] : []),
  ]
  return `${lines.join('\n')}\n`
}

const remarks = (title: string, lines: readonly string[]): readonly string[] =>
  lines.length === 0 ? [] : [title, ...lines]

/** The largest first, so that a composition is taken before its parts; each must add something. */
function chooseBundles(
  bundles: readonly Bundle[],
  names: readonly Destination[],
  http: boolean,
): readonly Bundle[] {
  const chosen: Bundle[] = []
  const fitting = bundles
    .filter(({ policy }) => isPlain(policy) && policy.grants.every((g) => wasSeen(g, names, http)))
    .sort((a, b) => opened(b.policy) - opened(a.policy) || (a.name < b.name ? -1 : 1))
  for (const bundle of fitting) {
    const covered = names.filter((seen) => grants(bundle.policy, seen))
    const isNew = covered.some((seen) => !chosen.some(({ policy }) => grants(policy, seen)))
    if (isNew) chosen.push(bundle)
  }
  return chosen
}

/** Grants by exact name and nothing else. */
function isPlain({ grants: all, cidrs, loopback, fs, userNamespaces }: Policy): boolean {
  const paths = fs.read.length + fs.write.length
  return (
    all.length > 0 &&
    cidrs.length + loopback.connect.length + loopback.listen.length + paths === 0 &&
    !userNamespaces
  )
}

function wasSeen(grant: Grant, names: readonly Destination[], http: boolean): boolean {
  if (grant.host.kind !== 'exact' || grant.proto !== 'tcp') return false
  return grant.ports.every(({ first, last }) => {
    if (first !== last) return false
    const seen = names.find(({ host, port }) => host === grant.host.name && port === first)
    if (seen === undefined || (seen.uninspectable && grant.inspect !== 'none')) return false
    return !http || grant.inspect !== 'http' || seen.requests.size === 0 || covers(grant, seen)
  })
}

/** With its key set, the bundled policy lets through only what its rules say. */
function covers(grant: Grant, { requests }: Destination): boolean {
  if (grant.rules.length === 0) return true
  return [...requests].every((request) => {
    const space = request.indexOf(' ')
    const method = request.slice(0, space)
    // `{token}` of the log stands for any key; a rule's token may have a prefix.
    const path = request.slice(space + 1).replaceAll('{token}', 'bot0000:key')
    const segments = normaliseSegments(path)
    return grant.rules.some(
      (rule) =>
        (rule.method === '*' || rule.method === method) &&
        rule.query === undefined &&
        rule.json === undefined &&
        segments !== undefined &&
        matchPath(rule.path, segments) !== undefined,
    )
  })
}

const opened = (policy: Policy): number =>
  policy.grants.reduce((sum, { ports }) => sum + ports.length, 0)

function grants(policy: Policy, { host, port }: Destination): boolean {
  return policy.grants.some(
    (grant) => formatHost(grant.host) === host && hasPort(grant.ports, port),
  )
}

function extendLines(
  bases: readonly string[],
  chosen: readonly Bundle[],
  names: readonly Destination[],
): readonly string[] {
  if (bases.length + chosen.length === 0) return []
  return [
    'extends:',
    ...bases.map((base) => `  - ${flow(base)} # the run had it already`),
    ...chosen.map(({ name, policy }) => {
      const seen = names.filter((each) => grants(policy, each)).map(({ host }) => host)
      return `  - ${name} # ${[...new Set(seen)].join(', ')}`
    }),
  ]
}

function byHost(names: readonly Destination[]): readonly (readonly Destination[])[] {
  const groups = new Map<string, Destination[]>()
  for (const seen of names) groups.set(seen.host, [...(groups.get(seen.host) ?? []), seen])
  return [...groups.values()]
}

/** The entries of one host: one for all its ports, but a further one where a port is proved otherwise. */
function allowLines(
  group: readonly Destination[],
  { http }: LearnedRequest,
  bundles: readonly Bundle[],
): readonly string[] {
  const host = group[0]?.host ?? ''
  const hint = wider(host, bundles)
  const comment = (seen: readonly Destination[]): string =>
    `${seen.map(traffic).join('; ')}${hint === undefined ? '' : `; ${hint}`}`
  const bare = group.filter(({ uninspectable }) => uninspectable)
  const judged = group.filter(({ requests }) => http && requests.size > 0)
  const plain = group.filter((seen) => !bare.includes(seen) && !judged.includes(seen))
  return [
    ...(plain.length > 0 ? [`    - ${hostEntry(host, plain)} # ${comment(plain)}`] : []),
    ...(bare.length > 0
      ? [`    - { host: ${host}, ports: [443], inspect: none } # no server name; ${comment(bare)}`]
      : []),
    ...judged.flatMap((seen) => [
      `    - host: ${host} # ${comment([seen])}`,
      ...(seen.port === 443 ? [] : [`      ports: [${String(seen.port)}]`]),
      '      inspect: http',
      ...ruleLines(seen),
    ]),
  ]
}

function ruleLines({ requests }: Destination): readonly string[] {
  const rules = learnRules(requests)
  if (rules.length === 0)
    return ['      # its paths are ambiguous (encoded slashes): no rule can name them']
  return [
    '      rules:',
    ...rules.map(({ method, path }) => `        - { method: ${method}, path: ${flow(path)} }`),
  ]
}

function hostEntry(host: string, seen: readonly Destination[]): string {
  const ports = seen.map(({ port }) => port)
  if (ports.length > 1) return `{ host: ${host}, ports: [${ports.join(', ')}] }`
  return ports[0] === 443 ? host : `${host}:${String(ports[0])}`
}

function cidrEntry({ host, port, proto }: Destination): string {
  const cidr = `${host}/${host.includes(':') ? '128' : '32'}`
  return `{ cidr: '${cidr}', ports: [${String(port)}]${proto === 'udp' ? ', proto: udp' : ''} }`
}

/** Where a bundled policy has the host among others that were not seen. */
function wider(host: string, bundles: readonly Bundle[]): string | undefined {
  const [first] = bundles
    .filter(({ policy }) => policy.grants.some((grant) => formatHost(grant.host) === host))
    .sort((a, b) => opened(a.policy) - opened(b.policy) || (a.name < b.name ? -1 : 1))
  if (first === undefined) return undefined
  const others = first.policy.grants.length - 1
  return others === 0
    ? `bundled as ${first.name}, with other rules`
    : `bundled as ${first.name}, with ${String(others)} more`
}

function traffic({ connections, up, down, requests }: Destination): string {
  const count =
    connections > 0
      ? plural(connections, 'connection')
      : plural(Math.max(1, requests.size), 'request')
  return `${count}, ${bytes(up)} up, ${bytes(down)} down`
}

function refusedLines({ refused }: Observed): readonly string[] {
  return refused.map(({ host, port, proto, reason, count }) => {
    const at = host.includes(':') ? `[${host}]` : host
    const place = `${at}${port === undefined ? '' : `:${String(port)}`}`
    return `  #   ${place} ${proto}${plus(count)}: ${reasons[reason]}${whatThen({ host, reason })}`
  })
}

function whatThen({ host, reason }: Pick<Refused, 'host' | 'reason'>): string {
  if (reason !== 'port-not-granted' && reason !== 'address-private') return ''
  const kind = classifyAddress(host)
  if (kind === 'private' || kind === 'shared') return ' (private addresses are granted by hand)'
  return ''
}

const plus = (count: number): string => (count === 1 ? '' : ` ×${String(count)}`)
const plural = (count: number, what: string): string =>
  `${String(count)} ${what}${count === 1 ? '' : 's'}`

function bytes(count: number): string {
  if (count < 1000) return `${String(count)} B`
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`
}

/** One value as it may stand inside a flow collection. */
function flow(value: string): string {
  return /^[A-Za-z0-9/._~-]+$/.test(value) && !/^[0-9.]+$/.test(value)
    ? value
    : stringify(value, { defaultStringType: 'QUOTE_SINGLE' }).trim()
}
