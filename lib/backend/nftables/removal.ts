/**
 * What to delete of one jail in `agentjail_uid`, found from the listing itself. Pure.
 * Invariant: the uid's way in goes first; a half-removed jail has nothing.
 */
import type { Table } from './ast.js'
import { printElement } from './print.js'
import { bodyOf, listedItems } from './readback.js'
import { tableName } from './tables.js'
import { jailNames } from './uid-base.js'

/** Maps of `agentjail_uid` that lead a uid to its jail's part; the first is its way out. */
export const jailMaps = ['jails', 'flows', 'answers', 'redirects'] as const

/**
 * As `removalOf`, for a part that is there exactly as it went in: refused as a whole where it is not. `but denials`
 * leaves what counts them, for a new part to go on with: none is lost between the last reading and the change.
 */
export function removalFrom(part: Table, extent: 'all' | 'but denials' = 'all'): string[] {
  const at = `inet ${part.name}`
  const sets = part.sets.filter(({ counter }) => extent === 'all' || counter !== true)
  return [
    // The way out went in last.
    ...part.elements
      .filter(({ timeout }) => timeout === undefined)
      .map(({ kind, set, key }) => `delete ${printElement(part.name, { kind, set, key })}`)
      .reverse(),
    ...part.chains.map(({ name }) => `flush chain ${at} ${name}`),
    ...part.chains.map(({ name }) => `delete chain ${at} ${name}`),
    ...sets.map(({ name }) => `delete set ${at} ${name}`),
    ...(extent === 'all' ? part.counters.map((name) => `delete counter ${at} ${name}`) : []),
  ]
}

/** Commands, in order, for one transaction; empty when nothing of the jail is there. */
export function removalOf(jail: string, uid: number, listing: unknown): string[] {
  const at = `inet ${tableName.uid}`
  const names = jailNames(jail)
  const bodies = (kind: string): Readonly<Record<string, unknown>>[] =>
    (listedItems(listing) ?? []).flatMap((item) => (kind in item ? [bodyOf(item)] : []))
  const maps = bodies('map').filter((map) => jailMaps.some((name) => name === map['name']))
  const held = maps.flatMap((map) => {
    const elements = Array.isArray(map['elem']) ? map['elem'] : []
    const ours = elements.some((one: unknown) => Array.isArray(one) && one[0] === uid)
    return ours ? [`delete element ${at} ${String(map['name'])} { ${uid} }`] : []
  })
  const chains = bodies('chain')
    .map((chain) => String(chain['name']))
    .filter((name) => [names.chain, names.nat, names.inward].includes(name))
  const sets = bodies('set')
    .map((set) => String(set['name']))
    .filter((name) => isJailSet(name, names.suffix))
  const counters = bodies('counter').map((counter) => String(counter['name']))
  return [
    ...held.sort((a, b) => Number(b.includes(' jails ')) - Number(a.includes(' jails '))),
    ...gatePortsOf(bodies('rule'), names.chain, bodies('set')).map(
      ({ set, port }) => `delete element ${at} ${set} { ${port} }`,
    ),
    ...chains.map((name) => `flush chain ${at} ${name}`),
    ...chains.map((name) => `delete chain ${at} ${name}`),
    ...sets.map((name) => `delete set ${at} ${name}`),
    ...counters
      .filter((name) => name === names.overflow)
      .map((name) => `delete counter ${at} ${name}`),
  ]
}

/** `denied4_port_NAME`, `live6_NAME`, `pin4_NAME_g1`: exactly this jail's, not those of one whose name ends alike. */
function isJailSet(name: string, suffix: string): boolean {
  const stem = suffix.slice(1)
  return (
    [4, 6].some((family) =>
      [
        `denied${family}_port${suffix}`,
        `denied${family}_other${suffix}`,
        `live${family}${suffix}`,
      ].includes(name),
    ) ||
    (/^pin[46]_/.test(name) &&
      /^g[0-9]+$/.test(name.slice(`pin4_${stem}_`.length)) &&
      name.slice(5).startsWith(`${stem}_`))
  )
}

/** The gate's ports, from the jail's own rules (`ct status dnat tcp dport ...`), that the sets still hold. */
function gatePortsOf(
  rules: readonly Readonly<Record<string, unknown>>[],
  chain: string,
  sets: readonly Readonly<Record<string, unknown>>[],
): { set: string; port: number }[] {
  const found = new Map<string, { set: string; port: number }>()
  for (const rule of rules.filter((one) => one['chain'] === chain)) {
    const text = JSON.stringify(rule['expr'])
    if (!text.includes('"dnat"')) continue
    for (const proto of ['tcp', 'udp']) {
      const match = new RegExp(`"protocol":"${proto}","field":"dport"}},"right":([^}]*)`).exec(text)
      const ports = match?.[1]?.match(/[0-9]+/g)?.map(Number) ?? []
      const set = `gates_${proto}`
      const held = sets.find((one) => one['name'] === set)?.['elem']
      for (const port of ports)
        // Both families' rules name the same port.
        if (Array.isArray(held) && held.includes(port)) found.set(`${set} ${port}`, { set, port })
    }
  }
  return [...found.values()]
}
