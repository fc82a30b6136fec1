/**
 * With whose rights a workspace is shared on macOS: the caller's; for root, those of the place's owner.
 * Invariant: root's own rights serve only where nobody else can put another thing in the place.
 */
import { dirname } from 'node:path'
import { listRecords } from '../../account/dscl.js'
import { JailError } from '../../errors.js'
import type { Sharer } from '../../launch/macos/workspace.js'
import type { System } from '../../system/types.js'

/** @param uid of the account that called. */
export async function sharerFor(system: System, uid: number): Promise<Sharer> {
  const caller = uid === 0 ? undefined : await nameOf(system, uid)
  if (uid !== 0 && caller === undefined)
    throw new JailError(
      'LAUNCH',
      `the directory of macOS has no account with the uid ${String(uid)}`,
      {
        hint: 'call agentjail through sudo from an account of this Mac',
      },
    )
  return { caller, sharerOf: async (path) => caller ?? (await ownerOf(system, path)) }
}

async function nameOf(system: System, uid: number): Promise<string | undefined> {
  const users = await listRecords(system, 'Users', 'UniqueID')
  return [...users].find(([, text]) => text === String(uid))?.[0]
}

/**
 * Name of the account that owns a place.
 * @throws JailError LAUNCH where it has none, or is root's and others could put something else in its place.
 */
async function ownerOf(system: System, path: string): Promise<string> {
  const refuse = (why: string): JailError =>
    new JailError('LAUNCH', `${path} cannot be shared: ${why}`, {
      hint: 'work in a directory that belongs to an account of its own, e.g. below /Users/Shared',
    })
  const uid = (await system.lstat(path))?.uid
  if (uid === undefined) throw refuse('it does not exist')
  if (uid !== 0) {
    const name = await nameOf(system, uid)
    if (name === undefined) throw refuse(`its owner ${String(uid)} is no account`)
    return name
  }
  for (let at = path; at !== '/';) {
    at = dirname(at)
    const stat = await system.lstat(at)
    const isSticky = ((stat?.mode ?? 0) & 0o1000) !== 0
    const isOthers = stat?.uid !== 0 || ((stat.mode & 0o022) !== 0 && !isSticky)
    if (stat?.kind !== 'directory' || isOthers || (await hasGuests(system, at)))
      throw refuse(`it is root's, and ${at} can be changed by others, or is a link`)
  }
  return 'root'
}

/** Whether an access list lets anybody do more than the mode says: the users of other jails, where they work. */
async function hasGuests(system: System, path: string): Promise<boolean> {
  const { code, stdout } = await system.run(['/bin/ls', '-lde', path])
  return code !== 0 || /^\s*\d+: .*\ballow\b/m.test(stdout)
}
