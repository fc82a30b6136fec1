/**
 * The entries of network.allow.
 * Invariant: fields that need each other are checked here: a rule, an access level or a key without
 * TLS termination would enforce nothing, and is refused instead of being ignored.
 */
import { parseCidr } from '../addresses.js'
import { breadthProblem } from '../breadth.js'
import { formatHost, parseHostPattern } from '../hosts.js'
import { type LayerGrant, compact } from '../layer.js'
import { formatPorts, mergePorts, parseGrantPorts, splitPorts } from '../ports.js'
import { type Problem, isProblem, problem, quote } from '../problem.js'
import type { GrantLimits, HostPattern, HttpRule, PortRange } from '../types.js'
import { parseSize } from '../units.js'
import type { Field, Reader } from './reader.js'
import { readRules } from './rules.js'

/** What one entry opens: names, or ports of the host's loopback for `localhost`. */
export interface Allowed {
  readonly grants: readonly LayerGrant[]
  readonly loopback: readonly number[]
}

const nothing: Allowed = { grants: [], loopback: [] }
const https: readonly PortRange[] = [{ first: 443, last: 443 }]

/** Ports where a server proves its name by itself: TLS by SNI, plain HTTP by Host. */
const namedPorts = [80, 443]

export function readAllow(reader: Reader, item: Field): Allowed {
  return reader.isMap(item) ? readEntry(reader, item) : readShort(reader, item)
}

/** `host` or `host:port`. */
function readShort(reader: Reader, item: Field): Allowed {
  const parsed = reader.parsed(item, parseShort)
  if (!parsed) return nothing
  if (parsed.loopback) return { grants: [], loopback: parsed.loopback }
  return { grants: expand(reader, item, [parsed.host], parsed.ports, {}), loopback: [] }
}

type Short =
  | { readonly host: HostPattern; readonly ports: readonly PortRange[]; readonly loopback?: never }
  | { readonly loopback: readonly number[] }

function parseShort(text: string): Short | Problem {
  // Addresses and schemes have colons too: leave them to the host parser's words.
  const colon = /^([^:/[\]]+):([^:/]*)$/.exec(text)
  const hostText = colon?.[1] ?? text
  const range = colon ? parseGrantPorts(colon[2] ?? '') : undefined
  const isLocal = /^localhost\.?$/i.test(hostText)
  if (isProblem(range)) return range
  if (isLocal) {
    if (!range) return problem('localhost stands without a port', 'write localhost:PORT')
    return loopbackPorts([range])
  }
  const host = parseGrantHost(hostText)
  return isProblem(host) ? host : { host, ports: range ? [range] : https }
}

function loopbackPorts(ranges: readonly PortRange[]): { loopback: readonly number[] } | Problem {
  const wide = ranges.find((range) => range.last - range.first > 99)
  if (wide) {
    return problem(
      `localhost:${formatPorts(wide)} opens more than 100 ports of the host`,
      'name the ports',
    )
  }
  return {
    loopback: ranges.flatMap(({ first, last }) =>
      Array.from({ length: last - first + 1 }, (_, i) => first + i),
    ),
  }
}

/** A host pattern that is also narrow enough to be granted. */
function parseGrantHost(text: string): HostPattern | Problem {
  const host = parseHostPattern(text)
  return isProblem(host) ? host : (breadthProblem(host) ?? host)
}

type Extra = Partial<
  Pick<
    LayerGrant,
    | 'proto'
    | 'inspect'
    | 'access'
    | 'rules'
    | 'within'
    | 'private'
    | 'credential'
    | 'credentialOrigin'
    | 'limits'
    | 'reason'
  >
>

function readEntry(reader: Reader, item: Field): Allowed {
  const fields = reader.map(item, 'grant')
  const hosts = [...hostFields(reader, item, fields)]
  const portFields = fields.get('ports')
  const ranges = reader
    .listOrOne(portFields)
    .flatMap((field) => reader.parsedNumber(field, parseGrantPorts) ?? [])
  const ports = portFields ? mergePorts(ranges) : https
  const local = hosts.filter(({ text }) => /^localhost\.?$/i.test(text))
  if (local.length > 0) return readLocal(reader, item, fields, hosts.length, ranges)
  const parsed = hosts.flatMap(({ field }) => reader.parsed(field, parseGrantHost) ?? [])
  const extra: Extra = compact({
    proto: reader.oneOf(fields.get('proto'), ['tcp', 'udp']),
    inspect: reader.oneOf(fields.get('inspect'), ['none', 'sni', 'http']),
    access: reader.oneOf(fields.get('access'), ['read-only', 'read-write', 'full']),
    rules: fields.has('rules') ? readRules(reader, fields.get('rules')) : undefined,
    within: reader
      .listOrOne(fields.get('within'))
      .flatMap((field) => reader.parsed(field, parseCidr) ?? []),
    private: reader.bool(fields.get('private')),
    credential: reader.text(fields.get('credential'), 64),
    credentialOrigin: originOf(reader, fields.get('credential')),
    limits: readLimits(reader, fields.get('limits')),
    reason: reader.text(fields.get('reason')),
  })
  checkTogether(reader, item, fields, extra, parsed)
  return { grants: expand(reader, item, parsed, ports, extra), loopback: [] }
}

function originOf(reader: Reader, field: Field | undefined): LayerGrant['origin'] | undefined {
  return field && reader.origin(field)
}

function* hostFields(
  reader: Reader,
  item: Field,
  fields: ReadonlyMap<string, Field>,
): Generator<{ field: Field; text: string }> {
  const [host, hosts] = [fields.get('host'), fields.get('hosts')]
  if (host && hosts) reader.failAt(hosts, `${item.where} has host and hosts`, 'keep one of them')
  if (!host && !hosts) {
    reader.failAt(item, `${item.where} has no host`, 'write host: NAME or hosts: [NAME, NAME]')
  }
  const list = hosts ? reader.list(hosts) : host ? [host] : []
  for (const field of list) {
    const text = reader.text(field)
    if (text !== undefined) yield { field, text }
  }
}

/** `host: localhost`: ports of the host's loopback, nothing else to set. */
function readLocal(
  reader: Reader,
  item: Field,
  fields: ReadonlyMap<string, Field>,
  hosts: number,
  ranges: readonly PortRange[],
): Allowed {
  const other = [...fields].find(([key]) => !['host', 'hosts', 'ports', 'reason'].includes(key))
  if (other) {
    reader.fail(
      reader.originAt(other[1].at.range?.[0] ?? 0),
      `${other[0]} does not go with localhost`,
      'write only host and ports, or network.loopback.connect',
    )
  } else if (hosts > 1) {
    reader.failAt(item, 'localhost stands among other hosts', 'give it an entry of its own')
  } else if (!fields.has('ports')) {
    reader.failAt(item, 'localhost stands without a port', 'write ports: [PORT]')
  }
  const ports = loopbackPorts(ranges)
  if (!isProblem(ports)) return { grants: [], loopback: ports.loopback }
  reader.failAt(item, ports.problem, ports.hint)
  return nothing
}

function readLimits(reader: Reader, field: Field | undefined): GrantLimits | undefined {
  if (!field) return undefined
  const fields = reader.map(field, 'grantLimits')
  return compact({
    conns: reader.number(fields.get('conns'), 1, 100_000),
    rps: reader.number(fields.get('rps'), 0.01, 100_000, true),
    uploadBytes: reader.parsedNumber(fields.get('uploadBytes'), parseSize),
  })
}

function checkTogether(
  reader: Reader,
  item: Field,
  fields: ReadonlyMap<string, Field>,
  extra: Extra,
  hosts: readonly HostPattern[],
): void {
  const failKey = (key: string, what: string, hint: string): void => {
    const field = fields.get(key)
    reader.fail(reader.originAt((field?.at ?? item.at).range?.[0] ?? 0), what, hint)
  }
  if (extra.inspect !== 'http') {
    for (const key of ['rules', 'access', 'credential']) {
      if (fields.has(key)) {
        failKey(key, `${key} without inspect: http enforces nothing`, 'add inspect: http')
      }
    }
  }
  if (extra.proto === 'udp' && extra.inspect !== undefined && extra.inspect !== 'none') {
    failKey('inspect', `inspect: ${extra.inspect} does not go with proto: udp`, 'leave one out')
  }
  const wildcard = hosts.find((host) => host.kind !== 'exact')
  if (extra.private === true && wildcard) {
    failKey(
      'private',
      `private: true does not go with the wildcard "${formatHost(wildcard)}"`,
      'name the hosts',
    )
  }
  if (extra.credential !== undefined && wildcard) {
    failKey(
      'credential',
      `a credential does not go with the wildcard "${formatHost(wildcard)}"`,
      'name the hosts that may have the key',
    )
  }
  const writes = extra.rules?.find((rule) => !methodAllowed(extra.access ?? 'full', rule.method))
  if (writes) {
    failKey(
      'access',
      `access: ${extra.access ?? ''} refuses the rule for ${quote(writes.method)} anyway`,
      'drop the rule, or widen access',
    )
  }
  if (
    extra.credential === undefined &&
    extra.rules?.some((rule) => rule.path.includes('{token}'))
  ) {
    failKey('rules', '{token} in a path, and no credential', 'add credential: ID')
  }
}

/** Methods that each level lets through: RFC 9110 §9.2.1's safe ones; those and writes; all. */
const accessMethods = {
  'read-only': ['GET', 'HEAD', 'OPTIONS'],
  'read-write': ['GET', 'HEAD', 'OPTIONS', 'POST', 'PUT', 'PATCH'],
} as const

/** Whether an access level lets a method through; `*` in a rule means all that the level allows. */
function methodAllowed(access: LayerGrant['access'], method: HttpRule['method']): boolean {
  if (access === 'full' || method === '*') return true
  return (accessMethods[access] as readonly string[]).includes(method)
}

/** Of a grant that does not say otherwise; shared, since there may be ten thousand. */
const unlimited = { access: 'full', rules: [], within: [], private: false, limits: {} } as const

/** One grant for each host, and for each way of inspection where the entry names none. */
function expand(
  reader: Reader,
  item: Field,
  hosts: readonly HostPattern[],
  ports: readonly PortRange[],
  extra: Extra,
): readonly LayerGrant[] {
  const proto = extra.proto ?? 'tcp'
  return hosts.flatMap((host) =>
    byInspection(ports, proto, extra.inspect).map(([inspect, part]) => ({
      host,
      ports: part,
      ...unlimited,
      origin: reader.origin(item),
      ...extra,
      proto,
      inspect,
    })),
  )
}

/** Of nearly every grant. */
const plainHttps: readonly Inspected[] = [['sni', https]]

type Inspected = readonly [LayerGrant['inspect'], readonly PortRange[]]

function byInspection(
  ports: readonly PortRange[],
  proto: 'tcp' | 'udp',
  inspect: LayerGrant['inspect'] | undefined,
): readonly Inspected[] {
  if (inspect !== undefined) return [[inspect, ports]]
  if (ports === https && proto === 'tcp') return plainHttps
  if (proto === 'udp') return [['none', ports]]
  const { named, others } = splitPorts(ports, namedPorts)
  const parts: readonly Inspected[] = [
    ['sni', named],
    ['none', others],
  ]
  return parts.filter(([, part]) => part.length > 0)
}
