/**
 * The nftables backend: both isolations, behind the one interface.
 * Invariant: see `Backend.open`; every change that others share is made by a caller that holds the lock.
 */
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import { endGuard, guardPlace } from '../guard.js'
import type { Backend, NetworkPlan, RenderedRules, UidRange } from '../types.js'
import { guardLook } from './guard.js'
import { loopbackRoutes, openNamespace } from './namespace.js'
import type { NamespaceTools } from './namespace.js'
import { printTable } from './print.js'
import { findDifference, listedItems } from './readback.js'
import { removalOf } from './removal.js'
import {
  guardTable,
  inwardTable,
  namespaceTable,
  staticTable,
  tableName,
  uidBase,
  uidJail,
} from './tables.js'
import { openUid } from './uid.js'

export interface NftablesOptions {
  readonly system: System
  readonly tools: NamespaceTools
  /** Root-owned directory, e.g. /run/agentjail. */
  readonly stateDir: string
}

/** The text that loads the static deny, for `nft -f`: idempotent, replaces what is there in one transaction. */
export function renderStaticDeny(range: UidRange): string {
  const at = `inet ${tableName.static}`
  return [`add table ${at}`, `delete table ${at}`, ...printTable(staticTable(range)), ''].join('\n')
}

export function nftablesBackend({ system, tools, stateDir }: NftablesOptions): Backend {
  const guard = guardPlace(stateDir)

  const list = async (table: string): Promise<unknown> => {
    const result = await system.run([tools.nft, '-j', 'list', 'table', 'inet', table])
    if (result.code === 0) return JSON.parse(result.stdout) as unknown
    if (result.stderr.includes('No such file')) return undefined
    throw new JailError('BACKEND', `nft refused: ${result.stderr.split('\n', 1)[0] ?? ''}`)
  }
  const load = async (commands: readonly string[]): Promise<void> => {
    const result = await system.run([tools.nft, '-f', '-'], { input: `${commands.join('\n')}\n` })
    if (result.code !== 0)
      throw new JailError('BACKEND', `nft refused: ${result.stderr.split('\n', 1)[0] ?? ''}`)
  }

  return {
    name: 'nftables',
    render: renderPlan,
    ensureStaticDeny: async (range) => {
      const wanted = staticTable(range)
      if (findDifference(wanted, await list(tableName.static)) === undefined) return
      await load([renderStaticDeny(range)])
      const difference = findDifference(wanted, await list(tableName.static))
      if (difference !== undefined)
        throw new JailError('VERIFY_FAILED', `the static deny is not in force: ${difference}`)
    },
    open: (plan) =>
      plan.isolation === 'namespace'
        ? Promise.resolve(openNamespace(system, tools, plan))
        : Promise.resolve(openUid(system, { nft: tools.nft, guard, list }, plan)),
    collect: async ({ name, uid, isolation }) => {
      if (isolation === 'namespace') return
      const listing = await list(tableName.uid)
      if (listing === undefined) {
        await endGuard(system, guard, guardLook(list))
        return
      }
      const stale = removalOf(name, uid, listing)
      if (stale.length > 0) await load(stale)
      if (hasJails(await list(tableName.uid))) return
      await load([`delete table inet ${tableName.uid}`])
      await endGuard(system, guard, guardLook(list))
    },
    uninstall: async () => {
      await endGuard(system, guard, guardLook(list))
      for (const table of [tableName.uid, tableName.static]) {
        if ((await list(table)) !== undefined) await load([`delete table inet ${table}`])
      }
    },
  }
}

function hasJails(listing: unknown): boolean {
  return (listedItems(listing) ?? []).some((item) => {
    const chain = item['chain']
    return (
      typeof chain === 'object' &&
      chain !== null &&
      'name' in chain &&
      String(chain.name).startsWith('jail_')
    )
  })
}

/** Exactly what `open` loads; the gate's loopback ports are known only at run time and shown from 40000 up. */
function renderPlan(plan: NetworkPlan): RenderedRules[] {
  const text = (commands: readonly string[]): string => `${commands.join('\n')}\n`
  const deny: RenderedRules = {
    title: 'static deny of the reserved uid range, on the host',
    format: 'nft',
    text: renderStaticDeny(plan.range),
  }
  if (plan.isolation === 'namespace') {
    return [
      deny,
      {
        title: "the jail's own network namespace",
        format: 'nft',
        text: text(printTable(namespaceTable(plan))),
      },
      { title: 'every address is local there', format: 'ip', text: text(loopbackRoutes()) },
    ]
  }
  const gate = [
    ...plan.gateUdp.map(({ first }) => ['udp', first] as const),
    ...plan.gateTcp.map(({ first }) => ['tcp', first] as const),
  ]
  const ports = gate.map(([proto, port], index) => ({ proto, port, gatePort: 40_000 + index }))
  return [
    deny,
    {
      title: 'the guard: survives a flush while a jail runs',
      format: 'nft',
      text: text(printTable(guardTable(plan.range))),
    },
    ...(plan.groups === undefined
      ? []
      : [
          {
            title: 'the guard of what comes in: sockets of jails, by control group',
            format: 'nft' as const,
            text: text(printTable(inwardTable(plan.groups))),
          },
        ]),
    { title: 'shared by all jails', format: 'nft', text: text(printTable(uidBase(plan.range))) },
    { title: 'this jail', format: 'nft', text: text(printTable(uidJail(plan, ports))) },
  ]
}
