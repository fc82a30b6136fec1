/**
 * Whether another user gets to a file: Node and agentjail in somebody's home are closed to the gate's user.
 * Invariant: asked only to explain what failed; access lists, which may allow more, are not looked at.
 */
import { realpathSync } from 'node:fs'
import { errorMessage, JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import { gateMain } from '../gate-process.js'
import type { MacParts } from './parts.js'

/** The first directory on the way, or the file, that a user in no group of its owner's may not pass; undefined: none. */
export async function closedTo(
  system: Pick<System, 'lstat'>,
  uid: number,
  path: string,
): Promise<string | undefined> {
  const parts = path.split('/').slice(1)
  for (const index of parts.keys()) {
    const at = `/${parts.slice(0, index + 1).join('/')}`
    const stat = await system.lstat(at)
    if (stat === undefined || stat.kind === 'symlink' || stat.uid === uid) continue
    if ((stat.mode & (stat.kind === 'directory' ? 0o001 : 0o004)) === 0) return at
  }
  return undefined
}

/** The reason, where files are it; else the error as it is. */
export async function explainGate(
  { system, settings }: Pick<MacParts, 'system' | 'settings'>,
  node: string,
  { uid }: { readonly uid: number },
  error: unknown,
): Promise<unknown> {
  try {
    for (const path of [realpathSync(node), gateMain]) {
      const closed = await closedTo(system, uid, path)
      if (closed !== undefined) return unreadable(settings.gateUser, path, closed, error)
    }
  } catch {
    // What failed first is what counts.
  }
  return error
}

function unreadable(user: string, path: string, closed: string, cause: unknown): JailError {
  return new JailError(
    'GATE',
    `the gate cannot be started: ${errorMessage(cause)}; its user ${user} may not read ${path}, because of ${closed}`,
    { hint: readableHint, cause },
  )
}

export const readableHint =
  'install Node and agentjail where every user can read them, below /usr/local or /opt; a home is closed to others'
