/**
 * The same policy, held by pf and by nftables (`isolation: uid`): the same flows pass. Both rulesets are evaluated as
 * data, by evaluators that know nothing of each other, and with what the policy itself says of the flow.
 */
import { readdirSync } from 'node:fs'
import fc from 'fast-check'
import t from 'tap'
import { loadPolicy } from '../../lib/policy/loader.js'
import { inNet, type PfWorld } from './model/pf/eval.js'
import { anyPort, isLocal, meaning, play, type Flow, type Held } from './flows.js'
import { admin, held, idle, isJudgeable, lan, lan6, machine, machines } from './machines.js'
import type { NftHost } from './nftables-eval.js'
import { nftHost, playNft } from './nftables-flows.js'
import { policy } from './policies.js'
import { reserved, uidOf } from './rulesets.js'

t.setTimeout(600_000)

type Result = 'passes' | 'refused' | 'hangs' | 'gate'

interface Both {
  readonly jails: readonly Held[]
  readonly pf: PfWorld
  readonly nft: () => NftHost
}

function both(jails: readonly Held[]): Both {
  return { jails, pf: machine(jails), nft: nftHost(jails) }
}

/** Undefined: they agree. */
function disagreement(hosts: Both, flow: Flow): string | undefined {
  const { jails } = hosts
  const pf = resultOf(play({ ...hosts.pf, states: [] }, flow))
  const nft = resultOf(playNft(hosts.nft(), flow))
  const meant = meaning(jails, reserved, flow)
  const client = jails.find(({ uid }) => uid === flow.client)
  const text = `${JSON.stringify(flow)}: pf ${pf}, nftables ${nft}, the policy ${meant}`
  if (nft === 'gate') {
    // On Linux all of a port that the gate serves is led there, and judged there. On macOS the gate is asked by name, so
    // that the same packet is judged by its address, unless the policy is transparent.
    const isGateMeant =
      client?.policy.transparent === true &&
      !isLocal(flow.to) &&
      !isDenied(client, flow) &&
      (client.policy.ipv6 || !flow.to.includes(':'))
    return client !== undefined && pf === meant && (!isGateMeant || pf === 'gate')
      ? undefined
      : text
  }
  if (pf === nft && pf === meant) return undefined
  // Stricter on macOS, each for a reason of its own, and never the other way round.
  const isStricter = pf === 'refused' && meant === 'refused' && nft === 'passes'
  const isOwnAddress = isLocal(flow.to) && !['127.0.0.1', '::1'].includes(flow.to)
  const isServedPort = client?.policy.loopback.listen.includes(flow.fromPort ?? anyPort) === true
  const isFromElsewhere = isLocal(flow.to) && flow.from !== flow.to
  // One socket, connected to itself: what it says is heard by nobody else.
  const isItself =
    flow.client === flow.server && flow.fromPort === flow.port && flow.from === flow.to
  const isExcused = isOwnAddress || isServedPort || isFromElsewhere || isItself
  return isStricter && (isExcused || isReverse(jails, flow)) ? undefined : text
}

/** nftables look at packets, whoever began: where the jail may reach this end, this end may reach it. */
function isReverse(jails: readonly Held[], { client, server, from, to, ...flow }: Flow): boolean {
  if (server === undefined) return false
  const { kind, port, fromPort = anyPort } = flow
  const other = client === undefined ? {} : { server: client }
  const back: Flow = { kind, client: server, ...other, from: to, to: from, port: fromPort }
  return meaning(jails, reserved, { ...back, fromPort: port }) === 'passes'
}

function resultOf(outcome: ReturnType<typeof play>): Result {
  return typeof outcome === 'string' ? outcome : 'gate'
}

function isDenied({ policy: { denies } }: Held, { to }: Flow): boolean {
  return denies.some(
    ({ cidr }) => cidr !== undefined && inNet(to, `${cidr.address}/${String(cidr.prefix)}`),
  )
}

/** The proxy's ports are macOS's, the gate's own ones Linux's. No policy may grant all addresses, loopback among them. */
function isCommon(jails: readonly Held[], flow: Flow): boolean {
  const ports = jails.map(({ proxy }) => proxy)
  const ends = jails.filter(({ uid }) => uid === flow.client || uid === flow.server)
  const isAll = ends.some(({ policy }) => policy.cidrs.some(({ cidr }) => cidr.prefix === 0))
  return (
    !(isAll && isLocal(flow.to)) &&
    isJudgeable(flow, jails) &&
    !ports.includes(flow.port) &&
    !ports.includes(flow.fromPort ?? anyPort)
  )
}

t.test('every bundled policy', async (t) => {
  const names = readdirSync(new URL('../../../policies/', import.meta.url))
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => file.slice(0, -'.yaml'.length))
  for (const name of names)
    for (const transparent of [false, true]) {
      const bundled = { ...(await loadPolicy(name)), transparent }
      const pins = Object.fromEntries(
        bundled.grants.map(({ id }, at) => [
          id,
          [`203.0.113.${String(at + 1)}`, `2001:db8::${String(at + 1)}`],
        ]),
      )
      const jails = [held(bundled, 0, pins), held(policy('other'), 1)]
      const targets = [
        ...Object.values(pins).flat().slice(0, 6),
        ...['198.51.100.200', '169.254.169.254', '10.0.0.1', '127.0.0.1', '::1'],
      ]
      const granted = bundled.grants.flatMap(({ ports }) => ports.map(({ first }) => first))
      const ports = [...new Set([53, 80, 443, 853, 3000, ...granted])].slice(0, 12)
      const flows = [uidOf(0), uidOf(1), idle, admin].flatMap((client) =>
        targets.flatMap((to) =>
          ports.flatMap((port) =>
            (['connect', 'send'] as const).map((kind): Flow => {
              const from = isLocal(to) ? to : to.includes(':') ? lan6 : lan
              return { kind, client, from, to, port }
            }),
          ),
        ),
      )
      const hosts = both(jails)
      const wrong = flows
        .filter((flow) => isCommon(jails, flow))
        .flatMap((flow) => disagreement(hosts, flow) ?? [])
      t.strictSame(
        wrong,
        [],
        `${name}${transparent ? ', transparent' : ''}: ${String(flows.length)} flows`,
      )
    }
})

t.test('random policies', async (t) => {
  // AGENTJAIL_RUNS=10000 takes two minutes.
  const runs = Number(process.env['AGENTJAIL_RUNS'] ?? 100)
  const seen = new Map<string, number>()
  fc.assert(
    fc.property(machines, ({ jails, flows }) => {
      const hosts = both(jails)
      for (const flow of flows) {
        if (!isCommon(jails, flow)) continue
        const wrong = disagreement(hosts, flow)
        if (wrong !== undefined) throw new Error(wrong)
        const result = resultOf(playNft(hosts.nft(), flow))
        seen.set(result, (seen.get(result) ?? 0) + 1)
      }
    }),
    { numRuns: runs },
  )
  for (const result of ['passes', 'refused', 'gate'])
    t.ok((seen.get(result) ?? 0) > runs / 10, `${result}: ${String(seen.get(result))}`)
})
