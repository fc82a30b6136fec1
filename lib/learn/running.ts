/**
 * Changes to the policy of a running jail: read, amend, put in force.
 * Invariant: a change is put in force only over the very policy it was made from.
 */
import { JailError } from '../errors.js'
import { parseJailName } from '../plan/names.js'
import { policyFromJson, policyToJson } from '../policy/json.js'
import type { Policy } from '../policy/types.js'
import { openContext } from '../session/context.js'
import { askWarden } from '../session/control.js'
import { reachJail } from '../session/reach.js'
import type { RegistryEntry } from '../session/registry.js'
import type { Amended } from './amend.js'

export interface Changed {
  readonly entry: RegistryEntry
  readonly changed: boolean
  readonly why: string
  /** Connections cut. */
  readonly cut: number
}

/** Two commands may change one jail at once: the later one starts over. */
const attempts = 5

/** @throws JailError NAME_UNKNOWN, POLICY_INVALID (the old policy stays in force), and what `amend` throws. */
export async function changeRunning(
  name: string,
  amend: (policy: Policy) => Amended,
): Promise<Changed> {
  const jail = parseJailName(name)
  const { entry, path } = await reachJail(await openContext(), jail)
  for (let attempt = 1; ; attempt++) {
    const base = await askWarden(path, jail, { op: 'policy' })
    const policy = typeof base === 'string' ? policyFromJson(base) : undefined
    if (typeof base !== 'string' || policy === undefined) {
      throw new JailError('STATE', `jail ${jail} runs under another version of agentjail`, {
        hint: 'end it and run it again',
      })
    }
    const { policy: next, changed, why } = amend(policy)
    if (!changed) return { entry, changed, why, cut: 0 }
    try {
      const request = { op: 'reload', policy: policyToJson(next), base } as const
      return { entry, changed, why, cut: cutOf(await askWarden(path, jail, request)) }
    } catch (error) {
      const isStale = error instanceof JailError && error.code === 'STATE' && attempt < attempts
      if (!isStale) throw error
    }
  }
}

function cutOf(result: unknown): number {
  return typeof result === 'object' && result !== null && 'cut' in result ? Number(result.cut) : 0
}
