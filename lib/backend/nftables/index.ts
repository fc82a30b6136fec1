/**
 * The nftables backend: both isolations, behind the one interface.
 * Invariant: see `Backend.open`; every change that others share is made by a caller that holds the lock.
 */
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import { endGuard, guardPlace } from '../guard.js'
import { loopbackSetUp } from '../namespace-addresses.js'
import { unlocked } from '../types.js'
import type { Backend, NetworkPlan, RenderedRules, UidRange } from '../types.js'
import { guardLook } from './guard.js'
import { openNamespace } from './namespace.js'
import type { NamespaceTools } from './namespace.js'
import { printTable } from './print.js'
import { openMonitor } from './monitor.js'
import { WrittenParts } from './parts.js'
import { bodyOf, listedItems } from './readback.js'
import { removalOf } from './removal.js'
import { SeenDeny } from './seen-deny.js'
import type { DumpChain } from './seen-deny.js'
import { findStaticProblem, staticCommands } from './static-deny.js'
import { guardTable, inwardTable } from './deny-tables.js'
import { namespaceTable } from './namespace-table.js'
import { tableName } from './tables.js'
import { uidBase, jailNames } from './uid-base.js'
import { uidJail } from './uid-jail.js'
import { openNftSoon, sessionArgv } from './session.js'
import { openUid } from './uid.js'

export interface NftablesOptions {
  readonly system: System
  readonly tools: NamespaceTools
  /** Root-owned directory, e.g. /run/agentjail. */
  readonly stateDir: string
  /** Absent: nft is asked. */
  readonly dumpChain?: DumpChain | undefined
}

/** Of a listing that came half. */
const maxTries = 5
const jailChains = jailNames('').chain

function refused(stderr: string): JailError {
  return new JailError('BACKEND', `nft refused: ${stderr.split('\n', 1)[0] ?? ''}`)
}

/** The text that loads the static deny, for `nft -f`. */
export function renderStaticDeny(range: UidRange, extent: 'uids' | 'flows' = 'uids'): string {
  return `${staticCommands(range, extent).join('\n')}\n`
}

export function nftablesBackend({ system, tools, stateDir, dumpChain }: NftablesOptions): Backend {
  const guard = guardPlace(stateDir)
  const seen = new SeenDeny(system, stateDir, dumpChain)

  /** Undefined: there is none. A table that goes while nft reads it can leave half an answer: then it is asked again. */
  const ask = async (words: readonly string[]): Promise<unknown> => {
    for (let tries = 1; ; tries++) {
      const result = await system.run([tools.nft, '-j', 'list', ...words])
      if (result.code !== 0) {
        if (result.stderr.includes('No such file')) return undefined
        throw refused(result.stderr)
      }
      try {
        return JSON.parse(result.stdout) as unknown
      } catch (error) {
        if (tries < maxTries) continue
        throw new JailError('BACKEND', 'nft gave no answer', { cause: error })
      }
    }
  }
  const list = (table: string): Promise<unknown> => ask(['table', 'inet', table])
  /** Names of the chains of the table that jails share; none: there is no such table. */
  const uidChains = async (): Promise<string[]> =>
    (listedItems(await ask(['chains', 'inet'])) ?? []).flatMap((item) => {
      const { table, name } = bodyOf(item)
      return 'chain' in item && table === tableName.uid && typeof name === 'string' ? [name] : []
    })
  const load = async (commands: readonly string[]): Promise<void> => {
    const result = await system.run([tools.nft, '-f', '-'], { input: `${commands.join('\n')}\n` })
    if (result.code !== 0) throw refused(result.stderr)
  }

  return {
    name: 'nftables',
    render: renderPlan,
    ensureStaticDeny: async (range, locked = unlocked) => {
      const look = async (): Promise<string | undefined> =>
        findStaticProblem(range, await list(tableName.static))
      if ((await seen.problem(range, look)) === undefined) return
      await locked(async () => {
        // Somebody may have been faster, and with the fuller form.
        if ((await look()) === undefined) return
        await load(staticCommands(range))
        const difference = await look()
        if (difference !== undefined)
          throw new JailError('VERIFY_FAILED', `the static deny is not in force: ${difference}`)
      })
    },
    monitorStaticDeny: (onChange, onEnd) =>
      openMonitor(system, tools.perl, { tables: [tableName.static] }, onChange, onEnd),
    open: async (plan) => {
      const nft = await openNftSoon(system, sessionArgv(tools, plan.isolation))
      return plan.isolation === 'namespace'
        ? openNamespace(system, nft, plan)
        : openUid(system, { nft: tools.nft, perl: tools.perl, guard, stateDir }, plan, nft)
    },
    collect: async ({ name, uid, isolation }) => {
      if (isolation === 'namespace') return
      const written = new WrittenParts(system, stateDir)
      await written.remove(name)
      // Names alone first: with many jails the table itself is long.
      const chains = await uidChains()
      const { chain, nat } = jailNames(name)
      if (chains.includes(chain) || chains.includes(nat)) {
        const stale = removalOf(name, uid, await list(tableName.uid))
        if (stale.length > 0) await load(stale)
      }
      if ((await uidChains()).some((each) => each.startsWith(jailChains))) return
      if ((await list(tableName.uid)) !== undefined)
        await load([`delete table inet ${tableName.uid}`])
      await endGuard(system, guard, guardLook(list))
      await written.forget()
    },
    uninstall: async () => {
      await endGuard(system, guard, guardLook(list))
      for (const table of [tableName.uid, tableName.static]) {
        if ((await list(table)) !== undefined) await load([`delete table inet ${table}`])
      }
    },
  }
}

/** Exactly what `open` loads; the gate's loopback ports are known only at run time and shown from 40000 up. */
function renderPlan(plan: NetworkPlan): RenderedRules[] {
  const text = (commands: readonly string[]): string => `${commands.join('\n')}\n`
  const deny: RenderedRules = {
    title: 'static deny of the reserved uid range, on the host',
    format: 'nft',
    text: renderStaticDeny(plan.range, plan.isolation === 'uid' ? 'flows' : 'uids'),
  }
  if (plan.isolation === 'namespace') {
    return [
      deny,
      {
        title: "the jail's own network namespace",
        format: 'nft',
        text: text(printTable(namespaceTable(plan))),
      },
      { title: 'every address is local there', format: 'ip', text: text(loopbackSetUp()) },
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
    {
      title: 'shared by all jails',
      format: 'nft',
      text: text(printTable(uidBase(plan.range, plan.groups))),
    },
    { title: 'this jail', format: 'nft', text: text(printTable(uidJail(plan, ports))) },
  ]
}
