/**
 * A wire that leaves the Mac for nowhere: two fake Ethernet devices, one the other's peer, and tcpdump at the far end.
 * What a probe sends is seen there after pf let it out, by its addresses and ports. Nobody answers.
 * Invariant: only devices and addresses of its own; `close` takes them away.
 */
import { errorMessage } from '../../errors.js'
import type { Argv, System } from '../../system/types.js'

/** Addresses for tests between devices, which nobody routes: RFC 2544 (198.18.0.0/15), RFC 5180 (2001:2::/48). */
export const wire = {
  host4: '198.18.77.1',
  granted4: '198.18.77.2',
  target4: '198.18.77.3',
  host6: '2001:2:0:4d::1',
  target6: '2001:2:0:4d::3',
} as const

/** Numbers that nothing else uses: ZeroTier, which has such devices too, counts from 100 and 5000. */
const near = 'feth7701'
const far = 'feth7702'
const ifconfig = '/sbin/ifconfig'
/** Nobody's; locally administered. */
const hardware = '02:00:5e:77:00:03'
/** `discard` of services(5): for the wire's own test. */
const checkPort = 9
const checks = 30
const checkPause = 100

/** What may arrive, as `protocol address port`, and which probe sends it. */
const senders: Readonly<Record<string, string>> = {
  [`tcp ${wire.target4} 443`]: 'tcp-direct',
  [`tcp ${wire.target4} 8081`]: 'tcp-port',
  [`tcp ${wire.target4} 8082`]: 'tcp-mapped',
  [`tcp ${wire.target6} 8081`]: 'tcp-ipv6',
  [`udp ${wire.target4} 8081`]: 'udp',
  [`udp ${wire.target6} 8081`]: 'udp-ipv6',
  [`udp ${wire.target4} 443`]: 'quic',
  [`udp ${wire.target4} 53`]: 'dns-other',
  [`icmp ${wire.target4}`]: 'icmp',
  [`icmp ${wire.target6}`]: 'icmp-ipv6',
  [`tcp ${wire.granted4} 443`]: 'control',
  [`tcp ${wire.granted4} 8443`]: 'sni-other',
  [`udp ${wire.target4} ${String(checkPort)}`]: 'wire4',
  [`udp ${wire.target6} ${String(checkPort)}`]: 'wire6',
}
/** Of those, what only this witness can tell. */
export const wireProbes = Object.values(senders).filter((id) => !/^(control|wire[46])$/.test(id))

export interface Wire {
  /** What arrived so far, by probe; `wire4` and `wire6` are its own test. */
  readonly arrived: ReadonlySet<string>
  /** Why nothing can arrive; undefined: it can. */
  readonly broken: string | undefined
  close(): Promise<void>
}

/** `tunnel`: the name whose query would be a leak. `send`: a datagram as root, to test the wire. */
export async function openWire(
  system: System,
  tunnel: string,
  send: (address: string, port: number) => void,
): Promise<Wire> {
  const arrived = new Set<string>()
  const undo: (() => Promise<unknown>)[] = []
  const close = async (): Promise<void> => {
    for (const step of undo.splice(0).reverse()) await step().catch(() => undefined)
  }
  try {
    for (const device of [near, far]) {
      await must(system, [ifconfig, device, 'create'])
      undo.push(() => system.run([ifconfig, device, 'destroy']))
    }
    await must(system, [ifconfig, near, 'peer', far])
    await must(system, [ifconfig, near, 'inet', wire.host4, 'netmask', '255.255.255.248', 'up'])
    await must(system, [ifconfig, near, 'inet6', wire.host6, 'prefixlen', '64'])
    await must(system, [ifconfig, far, 'up'])
    for (const address of [wire.granted4, wire.target4])
      await must(system, ['/usr/sbin/arp', '-s', address, hardware])
    await must(system, ['/usr/sbin/ndp', '-s', wire.target6, hardware])
    const capture = system.open(['/usr/sbin/tcpdump', '-n', '-l', '-i', far])
    undo.push(() => {
      capture.kill()
      return Promise.resolve()
    })
    capture.onLine((line) => {
      const id = parseArrival(line, tunnel)
      if (id !== undefined) arrived.add(id)
    })
    for (let n = 0; n < checks && !(arrived.has('wire4') && arrived.has('wire6')); n++) {
      send(wire.target4, checkPort)
      send(wire.target6, checkPort)
      await system.sleep(checkPause)
    }
    return { arrived, broken: undefined, close }
  } catch (error) {
    await close()
    return { arrived, broken: errorMessage(error), close }
  }
}

/** One line of `tcpdump -n`: which probe sent it. Only what goes towards the far end counts. */
export function parseArrival(line: string, tunnel: string): string | undefined {
  const match = /^\S+ IP6? \S+ > (\S+): (.*)$/.exec(line)
  const [, to = '', what = ''] = match ?? []
  if (match === null) return undefined
  // Resolvers write names in any case.
  if (what.toLowerCase().includes(`${tunnel}.`)) return 'dns-tunnel'
  if (/^ICMP6?[ ,]/.test(what))
    return what.includes('echo request') ? senders[`icmp ${to}`] : undefined
  const end = /^(.*)\.(\d+)$/.exec(to)
  const proto = what.startsWith('Flags [') ? 'tcp' : 'udp'
  return senders[`${proto} ${end?.[1] ?? ''} ${end?.[2] ?? ''}`]
}

async function must(system: System, argv: Argv): Promise<void> {
  const { code, stderr } = await system.run(argv)
  if (code === 0) return
  const said = stderr.trim().split('\n', 1)[0] ?? ''
  throw new Error(`${argv.slice(0, 3).join(' ')}: ${said === '' ? `code ${String(code)}` : said}`)
}
