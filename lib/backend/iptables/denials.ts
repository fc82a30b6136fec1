/**
 * Reads the sets of refused destinations and says what is new since the last reading. Pure.
 * Invariant: a counter is told once; one whose element ran out and came back starts anew.
 */
import type { Decision } from '../../audit/record.js'
import type { ListedElement } from './readback.js'

const common = { verdict: 'deny', layer: 'kernel', direction: 'out' } as const

export class DenialReader {
  #seen = new Map<string, number>()
  readonly #overflowSets: readonly string[]

  constructor(overflowSets: readonly string[]) {
    this.#overflowSets = overflowSets
  }

  /** `elements`: of all of the jail's sets of denials, at once. */
  read(elements: readonly ListedElement[]): Decision[] {
    const before = this.#seen
    this.#seen = new Map()
    return elements.flatMap(({ set, key, packets }): Decision[] => {
      const id = `${set} ${key}`
      this.#seen.set(id, packets)
      const last = before.get(id) ?? 0
      const count = packets >= last ? packets - last : packets
      if (count === 0) return []
      return [this.#overflowSets.includes(set) ? overflow(count) : denial(key, count)]
    })
  }
}

function overflow(count: number): Decision {
  const detail = 'more destinations than are kept apart'
  return { ...common, proto: 'any', reason: 'address-not-granted', count, detail }
}

const withPorts = ['tcp', 'udp', 'sctp', 'dccp', 'udplite']

/** `ADDRESS,PROTO:PORT`; ICMP comes as `icmp:echo-request` or `icmpv6:128/0`, a protocol without ports with port 0. */
function denial(key: string, count: number): Decision {
  const comma = key.indexOf(',')
  const address = key.slice(0, comma)
  const rest = key.slice(comma + 1)
  const colon = rest.indexOf(':')
  const name = colon < 0 ? rest : rest.slice(0, colon)
  const proto = name === 'ipv6-icmp' ? 'icmpv6' : name
  const port = Number(colon < 0 ? '' : rest.slice(colon + 1))
  if (!withPorts.includes(proto) || !Number.isInteger(port))
    return { ...common, proto, address, count, reason: 'protocol-not-granted' }
  const reason = proto === 'tcp' || proto === 'udp' ? 'port-not-granted' : 'protocol-not-granted'
  return { ...common, proto, address, port, count, reason }
}
