/**
 * Lets the service user write where the policy says, and the caller keep access to what it makes: by access lists.
 * Invariant: what was added is taken away at the end; owner, group and mode of files stay as they are.
 */
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import type { LaunchSpec } from '../types.js'

const chmod = '/bin/chmod'
/** Large workspaces take a while. */
const timeout = 120_000

/**
 * Two entries: files must not inherit `search`, which on a file is the right to execute. `only_inherit` keeps
 * the second one off the directories themselves.
 */
const rights = [
  'list,search,add_file,add_subdirectory,delete_child,delete,readattr,writeattr,readextattr,writeextattr,readsecurity,directory_inherit',
  'read,write,append,delete,readattr,writeattr,readextattr,writeextattr,readsecurity,file_inherit,only_inherit',
] as const

/** Undoes it; what could not be undone, in words. */
export type Unshare = () => Promise<readonly string[]>

/**
 * `caller`: name of the account that called; absent for root, who needs none.
 * @throws JailError LAUNCH; what was added by then is taken away again.
 */
export async function shareWorkspace(
  system: System,
  spec: LaunchSpec,
  caller: string | undefined,
): Promise<Unshare> {
  const places = writablePlaces(spec)
  const entries: (readonly [entry: string, path: string])[] = []
  for (const name of [spec.user.name, ...(caller === undefined ? [] : [caller])])
    for (const path of places)
      for (const right of rights) entries.push([`user:${name} allow ${right}`, path])
  const added: (readonly [entry: string, path: string])[] = []
  const undo: Unshare = async () => {
    const lines: string[] = []
    for (const [entry, path] of added.splice(0).reverse()) {
      const { code, stderr } = await system.run([chmod, '-R', '-a', entry, path], { timeout })
      if (code !== 0) lines.push(`an access list of ${path} keeps an entry: ${firstLine(stderr)}`)
    }
    return lines
  }
  for (const [entry, path] of entries) {
    added.push([entry, path])
    const { code, stderr } = await system.run([chmod, '-R', '+a', entry, path], { timeout })
    if (code === 0) continue
    added.pop()
    await undo()
    throw new JailError(
      'LAUNCH',
      `${path} cannot be shared with ${spec.user.name}: ${firstLine(stderr)}`,
      {
        hint: 'macOS keeps Documents, Desktop, Downloads and other volumes closed: work below /Users/Shared, or give Full Disk Access',
      },
    )
  }
  return undo
}

/** The working directory, unless the policy names what may be written; homes and relative names made absolute. */
function writablePlaces({ fs, cwd, user }: LaunchSpec): string[] {
  const named = fs.write.length === 0 ? [cwd] : fs.write
  return named
    .filter((path) => path !== '~' && !path.startsWith('~/') && !path.startsWith(`${user.home}/`))
    .map((path) =>
      path.startsWith('/') ? path : `${cwd}/${path.replace(/^\.\/?/, '')}`.replace(/\/+$/, ''),
    )
}

function firstLine(text: string): string {
  return text.trim().split('\n', 1)[0] ?? ''
}
