/**
 * The iptables and ipset backend: both isolations, behind the one interface.
 * Invariant: see `Backend.open`; every change that others share is made by a caller that holds the lock.
 */
import type { System } from '../../system/types.js'
import { endGuard, guardPlace } from '../guard.js'
import { loopbackSetUp } from '../namespace-addresses.js'
import type { Backend, NetworkPlan, RenderedRules, UidRange } from '../types.js'
import { printChange, printSets, printTables } from './ast.js'
import type { Family } from './ast.js'
import { baseChanges, jailUids, removalOfAll } from './base.js'
import { rawGuard, renderGuard } from './guard.js'
import { jailChanges } from './jail.js'
import { openNamespace } from './namespace.js'
import { denialSets, families, gateSets, grantSets, namespaceTables, sharedSets } from './tables.js'
import { Tool } from './tool.js'
import type { IptablesTools } from './tool.js'
import { apply, ensureBase, removeJail, UidHold } from './uid.js'

export interface IptablesOptions {
  readonly system: System
  readonly tools: IptablesTools
  readonly range: UidRange
  /** Root-owned directory, e.g. /run/agentjail. */
  readonly stateDir: string
}

/** For `iptables-restore --noflush` (or `ip6tables-restore`), on a machine that has none of it yet. */
export function renderStaticDeny(family: Family, range: UidRange): string {
  const changes = baseChanges(family, range, new Map(), false)
  return text(changes.flatMap((change) => printChange(family, change)))
}

export interface IptablesBackend extends Backend {
  /** Whether a jail in `uid` isolation has chains here, running or dead. */
  hasJails(): Promise<boolean>
}

export function iptablesBackend({
  system,
  tools,
  range,
  stateDir,
}: IptablesOptions): IptablesBackend {
  const tool = new Tool(system, tools)
  const guard = { place: guardPlace(stateDir), maker: rawGuard(system, tools.perl, range) }
  return {
    name: 'iptables',
    hasJails: async () => {
      const listings = await tool.lists()
      return families.some((family) => jailUids(listings[family]).length > 0)
    },
    render: renderPlan,
    ensureStaticDeny: (wanted, locked) => ensureBase(tool, wanted, 'either', locked),
    open: (plan) =>
      plan.isolation === 'namespace'
        ? openNamespace(system, tools, plan)
        : Promise.resolve().then(() => new UidHold(system, tool, guard, plan)),
    collect: async ({ uid, isolation }) => {
      if (isolation === 'uid') await removeJail(system, tool, guard, uid, range)
    },
    uninstall: async () => {
      await endGuard(system, guard.place, guard.maker)
      const listings = await tool.lists()
      const uids = families.flatMap((family) => jailUids(listings[family]))
      for (const family of families)
        await apply(tool, family, removalOfAll(family, range, listings[family]))
      const prefixes = uids.map((uid) => `aj-${uid}-`)
      const shared: readonly string[] = Object.values(gateSets)
      const ours = (await tool.setNames()).filter(
        (name) => shared.includes(name) || prefixes.some((prefix) => name.startsWith(prefix)),
      )
      await tool.loadSets(ours.map((name) => `destroy ${name}`))
    },
  }
}

const text = (lines: readonly string[]): string => `${lines.join('\n')}\n`

/** Exactly what `open` loads; the gate's loopback ports are known only at run time and shown from 40000 up. */
function renderPlan(plan: NetworkPlan): RenderedRules[] {
  const each = (title: string, lines: (family: Family) => readonly string[]): RenderedRules[] =>
    families.map((family) => ({
      title: `${title}, IPv${family}`,
      format: 'iptables',
      text: text(lines(family)),
    }))
  const deny = families.map((family): RenderedRules => ({
    title: `static deny of the reserved uid range, on the host, IPv${family}`,
    format: 'iptables',
    text: renderStaticDeny(family, plan.range),
  }))
  const denied = denialSets(plan.uid)
  if (plan.isolation === 'namespace') {
    return [
      ...deny,
      {
        title: "what was refused, in the jail's own network namespace",
        format: 'ipset',
        text: text(printSets(denied.sets, denied.elements)),
      },
      ...each("the jail's own network namespace", (family) =>
        printTables(family, namespaceTables(family, plan)),
      ),
      { title: 'every address is local there', format: 'ip', text: text(loopbackSetUp()) },
    ]
  }
  const ports = [
    ...plan.gateUdp.map(({ first }) => ({ proto: 'udp', port: first }) as const),
    ...plan.gateTcp.map(({ first }) => ({ proto: 'tcp', port: first }) as const),
  ]
  const gate = ports.map((port, index) => ({ ...port, gatePort: 40_000 + index }))
  const protect = gate.map(({ proto, gatePort }) => ({ set: gateSets[proto], key: gatePort }))
  const sets = [...sharedSets, ...denied.sets, ...grantSets(plan, 1)]
  return [
    ...deny,
    {
      title: "the gate's ports, what was refused, and pins",
      format: 'ipset',
      text: text(printSets(sets, [...denied.elements, ...protect])),
    },
    {
      title: 'the guard: survives a flush while a jail runs',
      format: 'nft',
      text: renderGuard(plan.range),
    },
    ...each('shared by all jails', (family) =>
      baseChanges(family, plan.range, new Map(), true).flatMap((change) =>
        printChange(family, change),
      ),
    ),
    ...each('this jail', (family) =>
      jailChanges(family, { plan, gate, round: 1 }, new Map()).flatMap((change) =>
        printChange(family, change),
      ),
    ),
  ]
}
