/**
 * The guard: the static deny once more, in a table owned by a process of ours, which `nft flush ruleset` and
 * `nft delete table` of anybody else leave alone. Its owner is one `nft -i` for the whole machine,
 * alive while any jail runs in `uid` isolation.
 * Invariant: the guard only denies; its end opens nothing, since the static deny says the same.
 */
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import type { UidRange } from '../types.js'
import { printTable } from './print.js'
import { findDifference } from './readback.js'
import { guardTable, tableName } from './tables.js'

export interface GuardPlace {
  readonly fifo: string
  /** Who holds it: `{pid, start}`. */
  readonly record: string
}

/** Lists a table of family `inet` as nft's JSON; undefined: there is none. */
export type ListTable = (table: string) => Promise<unknown>

const patience = 200
const pause = 10

/** Guard in force when it resolves; started if need be. Call it under the lock. */
export async function ensureGuard(
  system: System,
  nft: string,
  place: GuardPlace,
  range: UidRange,
  list: ListTable,
): Promise<void> {
  if (await isGuardUp(system, place, range, list)) return
  await endGuard(system, place, list)
  const pid = await system.detach([nft, '-i'], place.fifo)
  const start = await system.processStart(pid)
  await system.writeFile(place.record, JSON.stringify({ pid, start }), 0o600)
  await system.feed(place.fifo, `${printTable(guardTable(range)).join('; ')}\n`)
  for (let tries = 0; tries < patience; tries++) {
    if (await isGuardUp(system, place, range, list)) return
    await system.sleep(pause)
  }
  throw new JailError('VERIFY_FAILED', 'the guard table is not in force', {
    hint: 'isolation uid needs a kernel with owned nftables tables (5.12 or later)',
  })
}

/** Whether its owner lives and its rules read back as written. */
export async function isGuardUp(
  system: System,
  place: GuardPlace,
  range: UidRange,
  list: ListTable,
): Promise<boolean> {
  if ((await guardPid(system, place)) === undefined) return false
  return findDifference(guardTable(range), await list(tableName.guard)) === undefined
}

/** Ends the owner and with it the table, also one that was never recorded. Idempotent; under the lock. */
export async function endGuard(system: System, place: GuardPlace, list: ListTable): Promise<void> {
  if ((await system.lstat(place.fifo)) === undefined) return
  const pid = await guardPid(system, place)
  // A warden killed between start and record leaves an owner that only its FIFO reaches; nobody reads: an error.
  await system.feed(place.fifo, 'quit\n').catch(() => undefined)
  if (pid !== undefined) system.kill(pid, 'SIGKILL')
  await system.removeFile(place.record)
  for (let tries = 0; tries < patience; tries++) {
    if ((await list(tableName.guard)) === undefined) {
      await system.removeFile(place.fifo)
      return
    }
    await system.sleep(pause)
  }
  throw new JailError('STATE', 'the guard table does not go: its owner is not known', {
    hint: 'find the nft process that owns it (nft list table inet agentjail_guard), and end it',
  })
}

async function guardPid(system: System, place: GuardPlace): Promise<number | undefined> {
  const text = await system.readFile(place.record)
  if (text === undefined) return undefined
  try {
    const { pid, start } = JSON.parse(text) as { pid?: unknown; start?: unknown }
    return typeof pid === 'number' &&
      typeof start === 'number' &&
      (await system.processStart(pid)) === start
      ? pid
      : undefined
  } catch {
    return undefined
  }
}
