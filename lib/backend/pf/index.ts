/**
 * The pf backend of macOS, behind the one interface.
 * Invariant: see `Backend.open`; every change that others share is made by a caller that holds the lock.
 */
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import type { Backend, NetworkPlan, RenderedRules, UidRange } from '../types.js'
import { PfAnchor } from './anchor.js'
import { compilePf } from './compile.js'
import { PfHold, without } from './hold.js'
import { pfJail } from './jail.js'
import { DenialLog } from './log.js'
import { defaultAnchor, isAnchorPath } from './names.js'
import { printRuleset } from './print.js'
import type { PfStore } from './store.js'

export interface PfOptions {
  readonly system: System
  /** Root-owned directory that a restart clears, e.g. /var/run/agentjail. */
  readonly stateDir: string
  readonly range: UidRange
  /** The machine's own, asked anew each time; see `hostAddresses`. */
  readonly ownAddresses: () => readonly string[]
  /** Default `com.apple/agentjail`; else an anchor that /etc/pf.conf calls by that name. */
  readonly anchor?: string
  /** For people: what is not wrong but should be known. */
  readonly warn?: (text: string) => void
}

export interface PfBackend extends Backend {
  /** What keeps the deny of this range from being in force, in words; undefined: nothing. Changes nothing. */
  denyProblem(range: UidRange): Promise<string | undefined>
}

export function pfBackend(options: PfOptions): PfBackend {
  const { system, stateDir, range, ownAddresses } = options
  const path = options.anchor ?? defaultAnchor
  if (!isAnchorPath(path))
    throw new JailError('USAGE', `${JSON.stringify(path)} cannot be agentjail's pf anchor`, {
      hint: `use ${defaultAnchor}, or one name of at most 15 letters, digits, dots and hyphens`,
    })
  const warn = options.warn ?? (() => undefined)
  const anchor = new PfAnchor({ system, anchor: path, stateDir, range, ownAddresses, warn })
  const denyProblem = async (wanted: UidRange): Promise<string | undefined> => {
    const store = await anchor.read()
    const isSame = store.range?.first === wanted.first && store.range.last === wanted.last
    return isSame ? await anchor.difference(store) : 'it is not loaded'
  }
  return {
    name: 'pf',
    denyProblem,
    render: (plan) => renderPlan(plan, path),
    ensureStaticDeny: async (wanted) => {
      if ((await denyProblem(wanted)) === undefined) return
      await anchor.change('opening', (before) => ({ ...before, range: wanted }))
    },
    open: async (plan) => {
      if (plan.isolation !== 'uid')
        throw new JailError('PLATFORM', 'macOS has no network namespaces', {
          hint: 'use isolation: uid, which is the default here',
        })
      const claim = (isOurs: boolean): Promise<string> => anchor.claimLog(isOurs)
      const log = await DenialLog.open(system, path, range, { warn, claim })
      const hold = new PfHold(system, anchor, plan, log)
      try {
        await hold.begin()
      } catch (error) {
        log?.end()
        await anchor.releaseLog().catch(() => undefined)
        throw error
      }
      return hold
    },
    collect: async ({ name }) => {
      const store = await anchor.read()
      if (!store.jails.some((jail) => jail.name === name)) {
        // It may have ended between making pflog0 and its first rule, or between its last rule and its tables.
        await anchor.tidy(store)
        await anchor.releaseLog()
      } else await anchor.change('closing', (store) => without(store, name))
    },
    uninstall: async () => {
      const { jails } = await anchor.read()
      if (jails.length > 0)
        throw new JailError(
          'STATE',
          `jails still run: ${jails.map(({ name }) => name).join(', ')}`,
          {
            hint: 'end them first, or clear what is dead with: agentjail gc',
          },
        )
      await anchor.change('closing', (store) => withoutDeny(store))
    },
  }
}

/** As loaded for this jail alone; the gate's ports are known only when it listens. */
function renderPlan(plan: NetworkPlan, path: string): readonly RenderedRules[] {
  const text = printRuleset(compilePf([pfJail(plan, [])], plan.range))
  return [{ title: `anchor ${path}`, format: 'pf', text }]
}

function withoutDeny({ range: _, ...store }: PfStore): PfStore {
  return store
}
