/**
 * Clears what dead jails left. Every agentjail command does it first; `agentjail gc` does only this.
 * Invariant: processes of the uid first, rules after; what cannot be ended keeps its denial and is reported.
 */
import type { Backend } from '../backend/types.js'
import { errorMessage } from '../errors.js'
import { isAlive } from '../system/process-identity.js'
import type { System } from '../system/types.js'
import { endProcesses } from './processes.js'
import type { Registry, RegistryEntry } from './registry.js'

export interface CollectTools {
  readonly system: System
  readonly registry: Registry
  readonly backend: Backend
  /** What a killed warden left outside the namespaces: its socket, control groups, access lists. */
  readonly cleanLaunch: (entry: RegistryEntry) => Promise<void>
}

export interface Collected {
  readonly cleared: readonly string[]
  /** Jail and why not. */
  readonly kept: readonly { readonly name: string; readonly why: string }[]
}

/** Entries that one command looks at; `gc` looks at all. */
const share = 20

/**
 * Entries whose owner is dead, so that every command may ask: of many jails each command looks at a share only, another
 * one each time. What it does not come to stays denied.
 */
export async function deadJails(
  { system, registry }: Pick<CollectTools, 'system' | 'registry'>,
  extent: 'share' | 'all' = 'all',
): Promise<RegistryEntry[]> {
  const entries = await registry.list(extent === 'all' ? undefined : share)
  const dead = await Promise.all(
    entries.map(async (entry) => {
      if (await isAlive(system, entry.owner)) return []
      // Its warden may have cleared it and ended since it was listed, and the name be another jail's by now. What is
      // still there after its owner's death stays, for whoever has the lock.
      return (await registry.stillHas(entry)) ? [entry] : []
    }),
  )
  return dead.flat()
}

/** Call it under the lock. Idempotent. */
export async function collect(tools: CollectTools): Promise<Collected> {
  const cleared: string[] = []
  const kept: { name: string; why: string }[] = []
  for (const entry of await deadJails(tools)) {
    try {
      await clear(tools, entry)
      cleared.push(entry.name)
    } catch (error) {
      kept.push({ name: entry.name, why: errorMessage(error) })
    }
  }
  return { cleared, kept }
}

async function clear(
  { system, registry, backend, cleanLaunch }: CollectTools,
  entry: RegistryEntry,
): Promise<void> {
  await endProcesses(system, entry.uid)
  await backend.collect({
    name: entry.name,
    uid: entry.uid,
    isolation: entry.isolation === 'namespace' ? 'namespace' : 'uid',
  })
  await cleanLaunch(entry)
  await registry.remove(entry.name)
}
