/**
 * The static deny: which form of it there is, and putting it in force.
 * Invariant: the fuller form is never taken back while the machine runs: what a jail on the host's network has left of
 * its flows stays denied after it.
 */
import { JailError } from '../../errors.js'
import type { UidRange } from '../types.js'
import { printTable } from './print.js'
import { findDifference } from './readback.js'
import type { NftSession } from './session.js'
import { staticTable } from './deny-tables.js'
import { tableName } from './tables.js'

/** Undefined: a listing of the table has what is needed, or more of it. Else what is missing, in words. */
export function findStaticProblem(
  range: UidRange,
  listing: unknown,
  needed: 'uids' | 'flows' = 'uids',
): string | undefined {
  const problem = findDifference(staticTable(range, 'flows'), listing)
  if (problem === undefined || needed === 'flows') return problem
  return findDifference(staticTable(range, 'uids'), listing)
}

/** Commands that load it: idempotent, they replace what is there in one transaction. */
export function staticCommands(range: UidRange, extent: 'uids' | 'flows' = 'uids'): string[] {
  const at = `inet ${tableName.static}`
  // `add` before `delete`: the delete succeeds whether or not the table is there.
  return [`add table ${at}`, `delete table ${at}`, ...printTable(staticTable(range, extent))]
}

/** Loads it and reads it back. Throws VERIFY_FAILED. */
export async function restoreStatic(nft: NftSession, range: UidRange): Promise<void> {
  const listing = await nft.change(
    staticCommands(range, 'flows'),
    `list table inet ${tableName.static}`,
  )
  const difference = findStaticProblem(range, listing, 'flows')
  if (difference !== undefined)
    throw new JailError('VERIFY_FAILED', `the static deny is not in force: ${difference}`)
}
