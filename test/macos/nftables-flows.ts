/** Flows under the rules of nftables, `isolation: uid`: what a program sees, by the evaluator. */
import { staticTable, guardTable } from '../../lib/backend/nftables/deny-tables.js'
import { jailNames, uidBase } from '../../lib/backend/nftables/uid-base.js'
import { uidJail } from '../../lib/backend/nftables/uid-jail.js'
import type { GatePort } from '../../lib/backend/types.js'
import { anyPort, isLocal, type Flow, type Held, type Outcome } from './flows.js'
import { NftHost, type Connection, type NftPacket } from './nftables-eval.js'
import { networkOf, reserved } from './rulesets.js'

/** Not a port of any test. */
const firstGatePort = 40_000
const perJail = 1_000

/** Hosts with these jails running, their gates listening and their names pinned: one for each flow. */
export function nftHost(jails: readonly Held[]): () => NftHost {
  const tables = [staticTable(reserved, 'flows'), guardTable(reserved)]
  const parts = jails.map(({ policy }, index) => {
    const plan = networkOf(policy, index)
    const of = (proto: 'tcp' | 'udp'): GatePort[] =>
      (proto === 'tcp' ? plan.gateTcp : plan.gateUdp).flatMap(({ first, last }) =>
        Array.from({ length: last - first + 1 }, (_, at) => ({
          proto,
          port: first + at,
          gatePort: 0,
        })),
      )
    const gate = [...of('tcp'), ...of('udp')].map((port, at) => ({
      ...port,
      gatePort: firstGatePort + index * perJail + at,
    }))
    return uidJail(plan, gate)
  })
  const base = uidBase(reserved)
  const uid = {
    ...base,
    chains: [...base.chains, ...parts.flatMap(({ chains }) => chains)],
    sets: [...base.sets, ...parts.flatMap(({ sets }) => sets)],
    rules: [...base.rules, ...parts.flatMap(({ rules }) => rules)],
    elements: [...base.elements, ...parts.flatMap(({ elements }) => elements)],
  }
  const pinned = jails.flatMap(({ policy, pins }) =>
    [...pins].flatMap(([grant, addresses]) =>
      addresses
        // The gate resolves no IPv6 where the policy has none.
        .filter((address) => policy.ipv6 || !address.includes(':'))
        .map((address) => ({
          address,
          set: jailNames(policy.name).pins(address.includes(':') ? 6 : 4, grant),
        })),
    ),
  )
  return () => {
    const host = new NftHost([...tables, uid])
    for (const { set, address } of pinned) host.add(uid.name, set, [address])
    return host
  }
}

/** As `play` of flows.ts; nothing looks at packets that come in. */
export function playNft(host: NftHost, flow: Flow): Outcome {
  const proto = flow.kind === 'connect' ? 'tcp' : 'udp'
  const local = isLocal(flow.to) && isLocal(flow.from)
  const oif = local ? 'lo' : (flow.via ?? 'en0')
  const fromPort = flow.fromPort ?? anyPort
  const connection: Connection = { mark: 0, redirected: undefined, isNew: true }
  const there = (): NftPacket => {
    const { redirected } = connection
    const to = redirected?.address ?? flow.to
    const toPort = redirected?.port ?? flow.port
    return {
      uid: flow.client,
      oif,
      proto,
      from: flow.from,
      fromPort,
      to,
      toPort,
      direction: 'original',
    }
  }
  const back = (): NftPacket => ({
    ...{ uid: flow.server, oif, proto, from: flow.to, fromPort: flow.port },
    ...{ to: flow.from, toPort: fromPort, direction: 'reply' },
  })
  const isSent = (byClient: boolean): boolean => local || byClient === (flow.client !== undefined)
  for (const byClient of [true, false, true, true, false]) {
    if (isSent(byClient)) {
      const verdict = host.output(byClient ? there() : back(), connection)
      if (verdict === 'reject') return 'refused'
      if (verdict === 'drop') return 'hangs'
    }
    connection.isNew = false
    // What the gate answers is the gate's own business.
    if (connection.redirected !== undefined) return { gate: connection.redirected.port }
  }
  return 'passes'
}
