/**
 * The lab's DNS: Debian's unbound, authoritative for the root zone, its records changed while it runs.
 * Invariant: `set` returns only when the new records are answered.
 */
import { evil, publicResolvers, resolver4, resolver6, services } from './addresses.js'

export type RecordType = 'A' | 'AAAA' | 'CNAME' | 'TXT' | 'MX' | 'SRV' | 'HTTPS' | 'PTR' | 'NS'

/** `name type` to values with a time to live in seconds. */
export class Zone {
  readonly #records = new Map<string, { ttl: number; values: readonly string[] }>()
  #serial = 1

  constructor() {
    for (const { names, v4, v6 } of [...Object.values(services), { names: [evil.name], ...evil }]) {
      for (const name of names) this.set(name, 'A', [v4]).set(name, 'AAAA', [v6])
    }
    this.set('alias.example', 'CNAME', ['second.alias.example'])
      .set('second.alias.example', 'CNAME', ['plain.example'])
      .set('*.wild.example', 'A', [services.plain.v4])
      .set('*.evil.example', 'A', [evil.v4])
      .set('rebind-loopback.example', 'A', ['127.0.0.1'])
      .set('rebind-private.example', 'A', ['10.0.0.1'])
      .set('rebind-metadata.example', 'A', ['169.254.169.254'])
      .set('rebind-mixed.example', 'A', [services.plain.v4, '127.0.0.1'])
      .set('rebind6.example', 'AAAA', ['::1', 'fd00:ec2::254', '::ffff:127.0.0.1'])
      .set('plain.example', 'TXT', ['"a text record"'])
      .set('nodata.example', 'TXT', ['"no address"'])
  }

  /** Replaces the records of one name and type; no values: removes them. `ttl` in seconds. */
  set(name: string, type: RecordType, values: readonly string[], ttl = 60): this {
    const key = `${name}. ${type}`
    if (values.length === 0) this.#records.delete(key)
    else this.#records.set(key, { ttl, values })
    return this
  }

  /** Master file format, RFC 1035 section 5. */
  text(): string {
    const lines = [
      '$ORIGIN .',
      `. 60 IN SOA ns.lab. admin.lab. ${this.#serial++} 3600 600 86400 5`,
      '. 60 IN NS ns.lab.',
      `ns.lab. 60 IN A ${resolver4}`,
    ]
    for (const [key, { ttl, values }] of this.#records) {
      const [name, type] = key.split(' ')
      const dot = type === 'CNAME' || type === 'NS' || type === 'PTR' ? '.' : ''
      for (const value of values) lines.push(`${name} ${ttl} IN ${type} ${value}${dot}`)
    }
    return lines.join('\n') + '\n'
  }
}

/** unbound.conf(5); `directory` holds its configuration, its zone and its control socket. */
export const unboundConf = (directory: string): string =>
  [
    'server:',
    ...[resolver4, resolver6, ...publicResolvers].map((a) => `  interface: ${a}`),
    '  access-control: 0.0.0.0/0 allow',
    '  access-control: ::/0 allow',
    '  ip-freebind: yes',
    '  num-threads: 1',
    '  msg-cache-size: 64k',
    '  rrset-cache-size: 64k',
    '  module-config: "iterator"',
    '  chroot: ""',
    '  username: ""',
    '  pidfile: ""',
    '  use-syslog: no',
    '  verbosity: 1',
    '  do-daemonize: no',
    'remote-control:',
    '  control-enable: yes',
    `  control-interface: ${directory}/unbound.ctl`,
    '  control-use-cert: no',
    'auth-zone:',
    '  name: "."',
    `  zonefile: ${directory}/zone`,
    '  for-downstream: yes',
    '  for-upstream: no',
    '',
  ].join('\n')
