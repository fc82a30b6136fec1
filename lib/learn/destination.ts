/**
 * `HOST[:PORT][/udp]` of `agentjail allow` and `deny`, parsed. Pure.
 * Invariant: what may be allowed is judged by the reader of policy files, so that nothing can be
 * opened from the command line that a file could not open.
 */
import { stringify } from 'yaml'
import { JailError } from '../errors.js'
import { canonicalAddress } from '../policy/addresses.js'
import type { LayerGrant } from '../policy/layer.js'
import { parsePolicy } from '../policy/parse.js'
import { quote } from '../policy/problem.js'
import type { CidrGrant } from '../policy/types.js'

/** A policy entry as it is written in a file. */
type Entry = string | Readonly<Record<string, unknown>>

export interface Destination {
  /** As a person reads it: `api.example.com:443`, `[2001:db8::1]:25/udp`, `localhost:3000`. */
  readonly text: string
  /** False where no port was written: then 443 is what `allow` opens, and `deny` closes every port. */
  readonly hasPort: boolean
  /** Where it stands in a policy file, and how. */
  readonly under: 'allow' | 'cidrs'
  readonly entry: Entry
  /** Exactly one of the three has exactly one member. */
  readonly grants: readonly LayerGrant[]
  readonly cidrs: readonly Omit<CidrGrant, 'id'>[]
  readonly loopback: readonly number[]
}

const example = 'write HOST, HOST:PORT or HOST:PORT/udp, e.g. api.example.com:443'

/**
 * @param source - What origins and messages name: `agentjail allow`.
 * @throws JailError USAGE.
 */
export function parseDestination(text: string, source: string): Destination {
  const form = /^(?:\[([^\]]*)\]|([^:/[\]]+)|([^/[\]]+?))(?::([0-9]{1,6}))?(?:\/(tcp|udp))?$/
  const match = form.exec(text)
  const host = match?.[1] ?? match?.[2] ?? match?.[3]
  if (match === null || host === undefined || host === '') {
    const address = /^\[?([0-9a-fA-F:.]+)\]?\/[0-9]{1,3}(?::|$)/.exec(text)?.[1]
    throw new JailError('USAGE', `${quote(text)} is no destination`, {
      hint:
        address === undefined
          ? example
          : 'one address is written without /32; a network stands under network.cidrs in the policy file',
    })
  }
  const port = Number(match[4] ?? 443)
  const isUdp = match[5] === 'udp'
  const hasPort = match[4] !== undefined
  const { under, entry, shown } = entryOf(host, port, hasPort, isUdp)
  const file = stringify({ version: 1, network: { [under]: [entry] } })
  const { layer, problems } = parsePolicy(file, source)
  const [first] = problems ?? []
  if (first !== undefined) throw new JailError('USAGE', first.problem, { hint: first.hint })
  if (layer === undefined) throw new JailError('USAGE', `${quote(text)} is no destination`)
  // The line within the snippet says nothing to anybody.
  const origin = { file: source, line: 1, column: 1 }
  return {
    text: `${shown}:${String(port)}${isUdp ? '/udp' : ''}`,
    hasPort,
    under,
    entry,
    grants: layer.grants.map((grant) => ({ ...grant, origin })),
    cidrs: layer.cidrs.map((grant) => ({ ...grant, origin })),
    loopback: layer.loopback.connect,
  }
}

function entryOf(
  host: string,
  port: number,
  hasPort: boolean,
  isUdp: boolean,
): { under: 'allow' | 'cidrs'; entry: Entry; shown: string } {
  const address = canonicalAddress(host)
  const proto = isUdp ? { proto: 'udp' } : {}
  if (address !== undefined) {
    const isV6 = address.includes(':')
    return {
      under: 'cidrs',
      entry: { cidr: `${address}/${isV6 ? '128' : '32'}`, ports: [port], ...proto },
      shown: isV6 ? `[${address}]` : address,
    }
  }
  if (host === 'localhost' && (isUdp || !hasPort)) {
    throw new JailError('USAGE', 'of the loopback, single TCP ports can be opened', {
      hint: 'write localhost:PORT',
    })
  }
  if (isUdp) return { under: 'allow', entry: { host, ports: [port], ...proto }, shown: host }
  const isPlain = port === 443 && host !== 'localhost'
  return { under: 'allow', entry: isPlain ? host : `${host}:${String(port)}`, shown: host }
}
