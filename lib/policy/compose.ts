/**
 * Several layers to one policy.
 * Invariant: what is allowed and what is denied are unions, limits only shrink, and for single values
 * the later layer (the child, or the policy named last) wins.
 */
import { formatHost } from './hosts.js'
import { type Layer, type LayerGrant, compact, omit } from './layer.js'
import { formatPorts, overlap } from './ports.js'
import { quote } from './problem.js'
import type { PolicyProblem } from './read/reader.js'
import type { Credential, DnsSettings, Limits, Policy } from './types.js'

/** Seconds and counts as measured and reasoned in docs/policies.md. */
const dnsDefaults: DnsSettings = {
  upstream: [],
  types: ['A', 'AAAA'],
  maxTtl: 60,
  pinExtra: 120,
  rate: 50,
  wildcard: { labels: 3, labelLength: 32, newNames: 50 },
  hosts: new Map(),
}

export type Composed =
  | { readonly policy: Policy; readonly problems?: never }
  | { readonly policy?: never; readonly problems: readonly PolicyProblem[] }

/**
 * @param layers - Bases before what extends them; at least one.
 * @param named - What the user named, of which name and source are made.
 */
export function composeLayers(
  layers: readonly Layer[],
  named: readonly { readonly name: string; readonly source: string }[],
): Composed {
  const credentials = new Map(layers.flatMap((layer) => [...layer.credentials]))
  const grants = uniqueGrants(layers.flatMap((layer) => layer.grants))
  const problems = [...checkCredentials(grants, credentials), ...checkInspections(grants)]
  if (problems.length > 0) return { problems }
  const last = <
    K extends 'description' | 'isolation' | 'report' | 'ipv6' | 'userNamespaces' | 'transparent',
  >(
    key: K,
  ): Layer[K] | undefined => layers.findLast((layer) => layer[key] !== undefined)?.[key]
  const union = <T>(pick: (layer: Layer) => readonly T[]): readonly T[] => [
    ...new Set(layers.flatMap(pick)),
  ]
  const cidrs = layers.flatMap((layer) => layer.cidrs)
  const policy: Policy = {
    name: named.map(({ name }) => name).join('+'),
    source: named.map(({ source }) => source).join(' + '),
    isolation: last('isolation') ?? 'namespace',
    report: last('report') ?? false,
    grants: grants.map((grant, i) => ({
      id: `g${String(i + 1)}`,
      ...omit(grant, 'credentialOrigin'),
    })),
    cidrs: cidrs.map((grant, i) => ({ id: `g${String(grants.length + i + 1)}`, ...grant })),
    denies: layers.flatMap((layer) => layer.denies),
    loopback: {
      connect: union((layer) => layer.loopback.connect),
      listen: union((layer) => layer.loopback.listen),
    },
    ipv6: last('ipv6') ?? true,
    dns: composeDns(layers),
    credentials,
    env: {
      pass: union((layer) => layer.env.pass),
      set: new Map(layers.flatMap((layer) => [...layer.env.set])),
    },
    fs: {
      read: union((layer) => layer.fs.read),
      write: union((layer) => layer.fs.write),
      deny: union((layer) => layer.fs.deny),
    },
    limits: least(layers.map((layer) => layer.limits)),
    userNamespaces: last('userNamespaces') ?? false,
    transparent: last('transparent') ?? false,
    ...compact({ description: last('description') }),
  }
  return { policy }
}

function composeDns(layers: readonly Layer[]): DnsSettings {
  const own = layers.map((layer) => layer.dns)
  const single = own.map((dns) => omit(dns, 'hosts', 'wildcard'))
  return {
    ...single.reduce<DnsSettings>((all, one) => ({ ...all, ...one }), dnsDefaults),
    wildcard: own.reduce((all, dns) => ({ ...all, ...dns.wildcard }), dnsDefaults.wildcard),
    hosts: new Map(own.flatMap((dns) => [...(dns.hosts ?? [])])),
  }
}

function least(all: readonly Limits[]): Limits {
  const limits: { -readonly [K in keyof Limits]: Limits[K] } = {}
  for (const one of all) {
    for (const [key, value] of Object.entries(one) as [keyof Limits, number][]) {
      limits[key] = Math.min(limits[key] ?? Infinity, value)
    }
  }
  return limits
}

/** The same grant from two bases counts once; the first origin is kept. */
function uniqueGrants(grants: readonly LayerGrant[]): readonly LayerGrant[] {
  // By host first: most have one grant, and nothing to compare it with.
  const seen = new Map<string, LayerGrant[]>()
  return grants.filter((grant) => {
    const host = formatHost(grant.host)
    const others = seen.get(host)
    if (others === undefined) {
      seen.set(host, [grant])
      return true
    }
    const meaning = meaningOf(grant)
    if (others.some((other) => meaningOf(other) === meaning)) return false
    others.push(grant)
    return true
  })
}

function meaningOf(grant: LayerGrant): string {
  const meaning = omit(grant, 'origin', 'credentialOrigin', 'reason')
  return JSON.stringify(Object.entries(meaning).sort(([a], [b]) => (a < b ? -1 : 1)))
}

function checkCredentials(
  grants: readonly LayerGrant[],
  credentials: ReadonlyMap<string, Credential>,
): readonly PolicyProblem[] {
  const known = [...credentials.keys()]
  const problems: PolicyProblem[] = []
  const used = new Set<string>()
  for (const grant of grants) {
    if (grant.credential === undefined) continue
    used.add(grant.credential)
    const origin = grant.credentialOrigin ?? grant.origin
    const credential = credentials.get(grant.credential)
    if (!credential) {
      problems.push({
        origin,
        problem: `no credential is named ${quote(grant.credential)}`,
        hint:
          known.length > 0
            ? `known: ${known.join(', ')}`
            : `declare it: credentials: {${grant.credential}: {from: env:NAME, in: header:authorization}}`,
      })
    } else if (
      credential.in.kind !== 'path' &&
      grant.rules.some((rule) => rule.path.includes('{token}'))
    ) {
      problems.push({
        origin,
        problem: `{token} in a path, and the credential ${quote(credential.id)} stands in ${credential.in.kind}`,
        hint: 'write in: path:PREFIX at the credential, or leave {token} out',
      })
    }
  }
  for (const credential of credentials.values()) {
    if (used.has(credential.id)) continue
    problems.push({
      origin: credential.origin,
      problem: `the credential ${quote(credential.id)} is used by no grant`,
      hint: `add credential: ${credential.id} to the grant that may carry it, or drop it`,
    })
  }
  // A grant in several bases is told once.
  return [...new Map(problems.map((p) => [JSON.stringify(p), p])).values()]
}

/** One host and port can be inspected in one way only, or the weaker way would undo the stronger. */
function checkInspections(grants: readonly LayerGrant[]): readonly PolicyProblem[] {
  const byHost = new Map<string, LayerGrant[]>()
  const problems: PolicyProblem[] = []
  for (const grant of grants) {
    const host = formatHost(grant.host)
    const others = byHost.get(host) ?? []
    byHost.set(host, [...others, grant])
    const other = others.find(
      (o) =>
        o.proto === grant.proto && overlap(o.ports, grant.ports) && o.inspect !== grant.inspect,
    )
    if (!other) continue
    const ports = grant.ports.map(formatPorts).join(', ')
    const { file, line } = other.origin
    problems.push({
      origin: grant.origin,
      problem: `"${host}" port ${ports} has inspect: ${grant.inspect} here and inspect: ${other.inspect} at ${file}:${String(line)}`,
      hint: 'drop this entry, or extend another policy',
    })
  }
  return problems
}
