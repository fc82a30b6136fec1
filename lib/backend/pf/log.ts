/**
 * Kernel denials on macOS: pf copies logged packets to pflog0, tcpdump reads them there.
 * Invariant: a line is taken only if it names a denial of this jail; nothing of the packet but addresses is kept.
 */
import type { Decision } from '../../audit/record.js'
import { errorMessage } from '../../errors.js'
import { underLicence } from '../../system/licence.js'
import type { Session, System } from '../../system/types.js'
import { canonicalAddress } from '../../policy/addresses.js'
import type { NetworkPlan, UidRange } from '../types.js'
import { compilePf } from './compile.js'
import type { PfJail } from './jail.js'
import { parseLabel } from './names.js'

const tcpdump = '/usr/sbin/tcpdump'
const ifconfig = '/sbin/ifconfig'
/** Kept between two readings; what comes above is counted as one. */
const maxWaiting = 10_000

/** One line of `tcpdump -n -e -l -i pflog0`. */
export interface LoggedPacket {
  /** Last part of the anchor's path. */
  readonly anchor: string
  /** Position in the anchor's filter rules. */
  readonly rule: number
  readonly direction: 'in' | 'out'
  readonly from: Endpoint
  readonly to: Endpoint
}

interface Endpoint {
  readonly address: string
  readonly port: number
}

/** Undefined: another line, or one that is not understood. */
export function parseLogLine(line: string): LoggedPacket | undefined {
  const match =
    /^\S+ rule \d+\.([\w.-]+)\.(\d+)\/\d+\(match\): \w+ (in|out) on \S+: (?:IP6? )?(\S+) > (\S+):/.exec(
      line,
    )
  const from = parseEndpoint(match?.[4])
  const to = parseEndpoint(match?.[5])
  if (match?.[1] === undefined || from === undefined || to === undefined) return undefined
  return {
    anchor: match[1],
    rule: Number(match[2]),
    direction: match[3] === 'in' ? 'in' : 'out',
    from,
    to,
  }
}

/** `192.0.2.1.443`, `2001:db8::1.443`. */
function parseEndpoint(text: string | undefined): Endpoint | undefined {
  const match = /^(.*)\.(\d{1,5})$/.exec(text ?? '')
  if (match?.[1] === undefined || canonicalAddress(match[1]) === undefined) return undefined
  return { address: match[1], port: Number(match[2]) }
}

export class DenialLog {
  readonly #session: Session
  readonly #range: UidRange
  readonly #anchorEnd: string
  readonly #waiting: LoggedPacket[] = []

  private constructor(session: Session, range: UidRange, anchor: string) {
    this.#session = session
    this.#range = range
    this.#anchorEnd = (anchor.split('/').at(-1) ?? '').slice(0, 15)
    session.onLine((line) => {
      const packet = parseLogLine(line)
      if (packet?.anchor !== this.#anchorEnd || this.#waiting.length >= maxWaiting) return
      this.#waiting.push(packet)
    })
    session.unref()
  }

  /**
   * Undefined, after a warning, where the log cannot be had: denials hold all the same, only unseen.
   * `claim`: called before pflog0 is made, and again with false where it was not; gives its licence (`lib/system/licence.ts`).
   */
  static async open(
    system: System,
    anchor: string,
    range: UidRange,
    { warn, claim }: { warn: (text: string) => void; claim: (isOurs: boolean) => Promise<string> },
  ): Promise<DenialLog | undefined> {
    try {
      if (!(await hasLogDevice(system))) await makeLogDevice(system, claim)
      const session = system.open([tcpdump, '-n', '-e', '-l', '-i', 'pflog0'])
      return new DenialLog(session, range, anchor)
    } catch (error) {
      warn(
        `what pf denies will not be in the audit log: no pflog0 (${errorMessage(error)}); make it with: sudo ifconfig pflog0 create`,
      )
      return undefined
    }
  }

  /** What was denied to this jail since the last call, folded by destination. */
  take(jails: readonly PfJail[], plan: NetworkPlan): Decision[] {
    const packets = this.#waiting.splice(0)
    if (packets.length === 0) return []
    const { rules } = compilePf(jails, this.#range)
    const folded = new Map<string, { decision: Decision; count: number }>()
    for (const packet of packets) {
      const rule = rules[packet.rule]
      const owner = rule === undefined ? undefined : parseLabel(rule.label)
      if (rule?.action !== 'block' || owner?.uid !== plan.uid) continue
      // Somebody else's packet to this jail's gate: theirs, not the jail's.
      if (owner.what === 'gate-of-another') continue
      const far = packet.direction === 'out' ? packet.to : packet.from
      const port = packet.to.port
      const decision: Decision = {
        verdict: 'deny',
        layer: 'kernel',
        direction: packet.direction,
        proto: rule.proto,
        address: far.address,
        port,
        reason: reasonOf(owner.what, rule.proto, port, packet.direction, plan),
      }
      const key = JSON.stringify(decision)
      folded.set(key, { decision, count: (folded.get(key)?.count ?? 0) + 1 })
    }
    return [...folded.values()].map(({ decision, count }) => ({ ...decision, count }))
  }

  end(): void {
    this.#session.kill()
  }
}

async function hasLogDevice(system: System): Promise<boolean> {
  return (await system.run([ifconfig, 'pflog0'])).code === 0
}

async function makeLogDevice(
  system: System,
  claim: (isOurs: boolean) => Promise<string>,
): Promise<void> {
  const licence = await claim(true)
  const { code, stderr } = await system.run(underLicence(licence, [ifconfig, 'pflog0', 'create']))
  if (code === 0) return
  await claim(false)
  // Somebody else was faster.
  if (!(await hasLogDevice(system))) throw new Error(stderr.trim().split('\n', 1)[0])
}

/** True: there is none any more. Whoever else reads it is told by the kernel. */
export async function removeLogDevice(system: System): Promise<boolean> {
  const { code } = await system.run([ifconfig, 'pflog0', 'destroy'])
  return code === 0 || !(await hasLogDevice(system))
}

function reasonOf(
  what: string,
  proto: 'tcp' | 'udp',
  port: number,
  direction: 'in' | 'out',
  plan: NetworkPlan,
): Decision['reason'] {
  if (what === 'denied-cidr') return 'address-denied'
  if (direction === 'in') return 'port-not-granted'
  const granted = [...plan.pinned, ...plan.kernel].some(
    (each) =>
      each.proto === proto && each.ports.some(({ first, last }) => first <= port && port <= last),
  )
  return granted ? 'address-not-granted' : 'port-not-granted'
}
