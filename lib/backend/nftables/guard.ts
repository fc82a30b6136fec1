/**
 * The guard as nft makes it: its owner is one `nft -i`. Where the kernel knows sockets by control group, it owns the deny
 * of what comes in over UDP, too: that opens when its owner ends, which is when no jail runs.
 */
import type { System } from '../../system/types.js'
import type { GuardMaker } from '../guard.js'
import type { NetworkPlan } from '../types.js'
import { printTable } from './print.js'
import { findDifference } from './readback.js'
import { guardTable, inwardTable } from './deny-tables.js'
import { tableName } from './tables.js'

/** Lists a table of family `inet` as nft's JSON; undefined: there is none. */
export type ListTable = (table: string) => Promise<unknown>

const groupRoot = '/sys/fs/cgroup'

/**
 * @param extent `held`: what nobody but the owner can change is not read again, since nft looks for a group's name in
 * every file below /sys/fs/cgroup.
 */
export function nftGuard(
  system: System,
  nft: string,
  { range, groups }: Pick<NetworkPlan, 'range' | 'groups'>,
  list: ListTable,
  extent: 'whole' | 'held' = 'whole',
): GuardMaker {
  const guard = {
    owner: [nft, '-i'],
    rules: printTable(guardTable(range)).join('; '),
    look: async () => {
      const listing = await list(tableName.guard)
      if (listing === undefined) return 'absent'
      return findDifference(guardTable(range), listing) === undefined ? 'right' : 'other'
    },
  } as const satisfies GuardMaker
  if (groups === undefined) return guard
  return {
    ...guard,
    rules: [guard.rules, ...printTable(inwardTable(groups))].join('; '),
    subject: async () => (await system.lstat(`${groupRoot}/${groups}`))?.inode,
    look: async () => {
      const seen = await guard.look()
      if (seen !== 'right' || extent === 'held') return seen
      return (await holdsInward(system, groups, await list(tableName.inward))) ? 'right' : 'other'
    },
  }
}

/**
 * nft prints a group by looking for its number below /sys/fs/cgroup; with version 1 beside version 2, another's file may
 * have the same one and be found first. So it is the number behind the printed name that is compared.
 */
async function holdsInward(system: System, groups: string, listing: unknown): Promise<boolean> {
  const text = JSON.stringify(listing ?? {})
  const printed = /"left":\{"socket":\{"key":"cgroupv2"[^}]*\}\},"right":"([^"]*)"/.exec(text)?.[1]
  if (printed === undefined) return false
  const [meant, found] = await Promise.all(
    [groups, printed].map((path) => system.lstat(`${groupRoot}/${path}`)),
  )
  if (meant === undefined || meant.inode !== found?.inode) return false
  return findDifference(inwardTable(printed), listing) === undefined
}

/** The kernel keeps a group's number and not its name: with the jail's own in it, it stays the same one. */
export async function ensureGroup(
  system: System,
  { groups, jail }: Pick<NetworkPlan, 'groups' | 'jail'>,
): Promise<void> {
  if (groups !== undefined) await system.makeDir(`${groupRoot}/${groups}/${jail}`, 0o755)
}

/** For its end, where no range matters. */
export const guardLook = (list: ListTable): Pick<GuardMaker, 'look'> => ({
  look: async () => ((await list(tableName.guard)) === undefined ? 'absent' : 'other'),
})
