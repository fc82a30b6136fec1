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

/** Guard in force when it resolves; started if need be. Call it under the lock. */
export async function ensureGuard(
  system: System,
  nft: string,
  place: GuardPlace,
  range: UidRange,
): Promise<void> {
  if (await isGuardUp(system, nft, place, range)) return
  await endGuard(system, place)
  const pid = await system.detach([nft, '-i'], place.fifo)
  const start = await system.processStart(pid)
  await system.writeFile(place.record, JSON.stringify({ pid, start }), 0o600)
  await system.feed(place.fifo, `${printTable(guardTable(range)).join('; ')}\n`)
  for (let tries = 0; tries < 100; tries++) {
    if (await isGuardUp(system, nft, place, range)) return
    await system.sleep(10)
  }
  throw new JailError('VERIFY_FAILED', 'the guard table is not in force', {
    hint: 'isolation uid needs a kernel with owned nftables tables (5.12 or later)',
  })
}

/** Whether its owner lives and its rules read back as written. */
export async function isGuardUp(
  system: System,
  nft: string,
  place: GuardPlace,
  range: UidRange,
): Promise<boolean> {
  if ((await guardPid(system, place)) === undefined) return false
  const result = await system.run([nft, '-j', 'list', 'table', 'inet', tableName.guard])
  if (result.code !== 0) return false
  return findDifference(guardTable(range), JSON.parse(result.stdout) as unknown) === undefined
}

/** Ends the owner and with it the table. Idempotent. */
export async function endGuard(system: System, place: GuardPlace): Promise<void> {
  const pid = await guardPid(system, place)
  if (pid !== undefined) system.kill(pid, 'SIGKILL')
  await system.removeFile(place.record)
  await system.removeFile(place.fifo)
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
