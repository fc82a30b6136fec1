/**
 * Which form of the static deny there is. Pure.
 * Invariant: the fuller form is never taken back while the machine runs: what a jail on the host's network has left of
 * its flows stays denied after it.
 */
import type { UidRange } from '../types.js'
import { printTable } from './print.js'
import { findDifference } from './readback.js'
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
