/**
 * Shares writable trees by access lists where the file system has no idmapped mounts.
 * Invariant: symbolic links are never followed (setfacl -P, find -P, chown -h), and ownership is
 * handed over only after every process of the jail is gone.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { promisify } from 'node:util'
import { JailError, errorMessage } from '../errors.js'
import type { Tree } from './mount-facts.js'
import type { LaunchSpec } from './types.js'

const execute = promisify(execFile)
const setfacl = '/usr/bin/setfacl'
const find = '/usr/bin/find'
const chown = ['/usr/bin/chown', '/bin/chown'].find((path) => existsSync(path)) ?? '/bin/chown'

/**
 * Lets the service user read, and write where the tree is writable; the caller keeps access to what it makes.
 * @returns takes it all back and gives new files to the caller; a line for each that failed.
 * @throws JailError TOOL_MISSING
 */
export async function shareByAcl(
  spec: LaunchSpec,
  trees: readonly Tree[],
): Promise<() => Promise<readonly string[]>> {
  const shared = trees.filter((tree) => tree.idmap)
  if (shared.length > 0 && !existsSync(setfacl)) {
    throw new JailError('TOOL_MISSING', 'the workspace needs setfacl, which is not installed', {
      hint: 'install acl (apt-get install acl): this file system has no idmapped mounts',
    })
  }
  const { uid } = spec.user
  const caller = String(spec.caller.uid)
  for (const { path, mode, directory } of shared) {
    const rights = mode === 'rw' ? 'rwX' : 'rX'
    const entries = [`u:${String(uid)}:${rights}`]
    if (directory) entries.push(`d:u:${String(uid)}:${rights}`, `d:u:${caller}:rwX`)
    // -R fails where single entries take no list (sockets of others, read-only submounts): the rest is set.
    await execute(setfacl, ['-R', '-P', '-m', entries.join(','), '--', path]).catch(() => undefined)
  }
  return async () => {
    const failures: string[] = []
    for (const { path, directory } of shared) {
      const entries = [`u:${String(uid)}`]
      if (directory) entries.push(`d:u:${String(uid)}`, `d:u:${caller}`)
      const group = String(spec.caller.gid)
      try {
        // By descriptor, not by a path in which another jail of this tree may have put a link meanwhile.
        await execute(
          find,
          [
            ...['-P', path, '-xdev', '-uid', String(uid)],
            ...['-execdir', chown, '-h', `${caller}:${group}`, '--', '{}', '+'],
          ],
          { env: { PATH: '/usr/bin:/bin' } },
        )
        await execute(setfacl, ['-R', '-P', '-x', entries.join(','), '--', path])
      } catch (error) {
        failures.push(`${path}: ${errorMessage(error).split('\n')[0] ?? ''}`)
      }
    }
    return failures.map((text) => `ownership not handed back: ${text}`)
  }
}
