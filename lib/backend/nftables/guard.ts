/**
 * The guard as nft makes it: its owner is one `nft -i`.
 */
import type { GuardMaker } from '../guard.js'
import type { UidRange } from '../types.js'
import { printTable } from './print.js'
import { findDifference } from './readback.js'
import { guardTable, tableName } from './tables.js'

/** Lists a table of family `inet` as nft's JSON; undefined: there is none. */
export type ListTable = (table: string) => Promise<unknown>

export function nftGuard(nft: string, range: UidRange, list: ListTable): GuardMaker {
  return {
    owner: [nft, '-i'],
    rules: printTable(guardTable(range)).join('; '),
    look: async () => {
      const listing = await list(tableName.guard)
      if (listing === undefined) return 'absent'
      return findDifference(guardTable(range), listing) === undefined ? 'right' : 'other'
    },
  }
}

/** For its end, where no range matters. */
export const guardLook = (list: ListTable): Pick<GuardMaker, 'look'> => ({
  look: async () => ((await list(tableName.guard)) === undefined ? 'absent' : 'other'),
})
