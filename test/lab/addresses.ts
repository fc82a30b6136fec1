/**
 * Every address and name of the lab's internet, in one place.
 * Addresses are of the documentation ranges (RFC 5737, RFC 3849), except where a bundled policy
 * names the vendor's own range (Anthropic) or a program has one built in (public resolvers):
 * in the lab every address of the world is local to "the internet", so a leak always arrives.
 */

/** The wire between the two: a /30 and a /64 of their own. */
export const wire = {
  host4: '192.0.2.2',
  host6: '2001:db8:ff::2',
  internet4: '192.0.2.1',
  internet6: '2001:db8:ff::1',
  /** Fixed, with permanent neighbour entries: no ARP or neighbour discovery on the wire. */
  hostMac: '02:00:00:00:00:02',
  internetMac: '02:00:00:00:00:01',
  hostLink: 'eth0',
  internetLink: 'inet0',
} as const

export const resolver4 = '192.0.2.53'
export const resolver6 = '2001:db8::53'
/** Where the lab's resolver listens too, so that a program with its own resolver gets answers. */
export const publicResolvers = ['8.8.8.8', '1.1.1.1', '9.9.9.9', '2001:4860:4860::8888'] as const

export const evil = { name: 'evil.example', v4: '203.0.113.66', v6: '2001:db8:bad::66' } as const

/** Ports on which evil echoes and records, TCP and UDP, beside 80 and 443 with HTTP and TLS. */
export const evilPorts = [
  7, 21, 22, 25, 53, 110, 123, 143, 465, 587, 853, 993, 1080, 1194, 3128, 3306, 5222, 5353, 5432,
  6379, 8080, 8443, 9001, 11211, 51820,
] as const

interface Service {
  readonly names: readonly string[]
  readonly v4: string
  readonly v6: string
}

export const services = {
  openai: { names: ['api.openai.com'], v4: '198.51.100.10', v6: '2001:db8:1::10' },
  telegram: { names: ['api.telegram.org'], v4: '198.51.100.11', v6: '2001:db8:1::11' },
  anthropic: { names: ['api.anthropic.com'], v4: '160.79.104.10', v6: '2607:6bc0::10' },
  slack: {
    names: ['slack.com', 'files.slack.com', 'hooks.slack.com', 'wss-primary.slack.com'],
    v4: '198.51.100.13',
    v6: '2001:db8:1::13',
  },
  github: {
    names: ['github.com', 'api.github.com', 'codeload.github.com', 'raw.githubusercontent.com'],
    v4: '198.51.100.14',
    v6: '2001:db8:1::14',
  },
  npm: { names: ['registry.npmjs.org'], v4: '198.51.100.15', v6: '2001:db8:1::15' },
  pypi: {
    names: ['pypi.org', 'files.pythonhosted.org'],
    v4: '198.51.100.16',
    v6: '2001:db8:1::16',
  },
  /** Names on one address, one of them the attacker's. */
  cdn: {
    names: ['shared-a.example', 'shared-b.example', 'cdn-evil.example'],
    v4: '198.51.100.20',
    v6: '2001:db8:1::20',
  },
  plain: {
    names: ['plain.example', 'mutable.example'],
    v4: '198.51.100.30',
    v6: '2001:db8:1::30',
  },
} as const satisfies Record<string, Service>

export type ServiceName = keyof typeof services

/** The further address `mutable.example` may move to; the same server answers there. */
export const elsewhere = { v4: '198.51.100.31', v6: '2001:db8:1::31' } as const

/** Plain HTTP on a port that nothing inspects, at every address that has a web server. */
export const plainPort = 8088
