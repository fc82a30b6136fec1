/**
 * Reads the static deny and the reserved uids back from the kernel; changes nothing.
 */
import { findStaticProblem } from '../backend/nftables/static-deny.js'
import { tableName } from '../backend/nftables/tables.js'
import type { UidRange } from '../backend/types.js'
import type { System } from '../system/types.js'

/** What keeps the static deny from being in force, in words; `undefined` where it reads back as meant. */
export async function findDenyProblem(
  system: Pick<System, 'run'>,
  nft: string,
  range: UidRange,
): Promise<string | undefined> {
  const listed = await system.run([nft, '-j', 'list', 'table', 'inet', tableName.static])
  if (listed.code !== 0) {
    const isAbsent = listed.stderr.includes('No such file')
    return isAbsent ? 'it is not loaded' : `nft says: ${listed.stderr.split('\n', 1)[0] ?? ''}`
  }
  try {
    return findStaticProblem(range, JSON.parse(listed.stdout) as unknown)
  } catch {
    return 'nft printed no JSON'
  }
}

export interface RangeProcess {
  readonly pid: number
  readonly uid: number
  readonly name: string
}

/** Every process with a real, effective, saved or file-system uid of the range (proc(5), status). */
export async function processesInRange(
  system: Pick<System, 'list' | 'readFile'>,
  { first, last }: UidRange,
): Promise<readonly RangeProcess[]> {
  const found: RangeProcess[] = []
  for (const entry of await system.list('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    // A process may end between the two calls.
    const status = await system.readFile(`/proc/${entry}/status`).catch(() => undefined)
    const uids =
      /^Uid:\t([\d\t]+)$/m
        .exec(status ?? '')?.[1]
        ?.split('\t')
        .map(Number) ?? []
    const uid = uids.find((id) => id >= first && id <= last)
    if (uid === undefined) continue
    found.push({ pid: Number(entry), uid, name: /^Name:\t(.*)$/m.exec(status ?? '')?.[1] ?? '' })
  }
  return found
}
