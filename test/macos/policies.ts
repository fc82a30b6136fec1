/** Policies made by hand for the macOS tests: short to write, complete for the types. */
import { isIPv4 } from 'node:net'
import type {
  Cidr,
  CidrGrant,
  Deny,
  Grant,
  HostPattern,
  Policy,
  PortRange,
} from '../../lib/policy/types.js'
import { plainGrant } from '../../lib/policy/plain-grant.js'

const origin = { file: 'test', line: 1, column: 1 }

export function host(pattern: string): HostPattern {
  if (pattern.startsWith('**.')) return { kind: 'many', name: pattern.slice(3) }
  if (pattern.startsWith('*.')) return { kind: 'one', name: pattern.slice(2) }
  return { kind: 'exact', name: pattern }
}

export function cidr(text: string): Cidr {
  const [address = '', prefix] = text.split('/')
  const family = isIPv4(address) ? 4 : 6
  return { family, address, prefix: Number(prefix ?? (family === 4 ? 32 : 128)) }
}

export function grant(id: string, name: string, more: Partial<Grant> = {}): Grant {
  return {
    ...plainGrant({ id, host: host(name), ports: [{ first: 443, last: 443 }], origin }),
    ...more,
  }
}

export function cidrGrant(
  id: string,
  text: string,
  port: number,
  proto: 'tcp' | 'udp' = 'tcp',
): CidrGrant {
  return { id, cidr: cidr(text), ports: [{ first: port, last: port }], proto, origin }
}

export function denyCidr(text: string): Deny {
  return { cidr: cidr(text), origin }
}

export function policy(name: string, more: Partial<Policy> = {}): Policy {
  return {
    name,
    source: `${name}.yaml`,
    isolation: 'uid',
    report: false,
    grants: [],
    cidrs: [],
    denies: [],
    loopback: { connect: [], listen: [] },
    ipv6: true,
    dns: {
      upstream: [],
      types: ['A', 'AAAA'],
      maxTtl: 60,
      pinExtra: 120,
      rate: 50,
      wildcard: { labels: 3, labelLength: 32, newNames: 50 },
      hosts: new Map(),
    },
    credentials: new Map(),
    env: { pass: [], set: new Map() },
    fs: { read: [], write: [], deny: [] },
    limits: {},
    userNamespaces: false,
    transparent: false,
    ...more,
  }
}

/** The policies whose rulesets are kept as golden files: each exercises another part of the compiler. */
export const goldenPolicies: readonly Policy[] = [
  policy('closed'),
  policy('openai-telegram', {
    grants: [grant('g1', 'api.openai.com'), grant('g2', 'api.telegram.org')],
  }),
  policy('mail-and-ssh', {
    grants: [
      grant('g1', 'smtp.example.com', { inspect: 'none', ports: [port(465), port(587)] }),
      grant('g2', 'github.com', { inspect: 'none', ports: [port(22)] }),
      grant('g3', 'time.example.com', { inspect: 'none', proto: 'udp', ports: [port(123)] }),
    ],
    cidrs: [cidrGrant('c1', '198.51.100.0/24', 5432), cidrGrant('c2', '2001:db8:5::/48', 5432)],
    denies: [denyCidr('198.51.100.66/32')],
  }),
  policy('local-services', {
    grants: [grant('g1', '*.example.com', { inspect: 'none', ports: [port(8000, 8010)] })],
    loopback: { connect: [5432], listen: [3000] },
    ipv6: false,
  }),
  policy('transparent', {
    grants: [grant('g1', 'api.openai.com'), grant('g2', 'www.example.com', { ports: [port(80)] })],
    transparent: true,
  }),
]

function port(first: number, last = first): PortRange {
  return { first, last }
}
