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
 * `caller`: name of the account that called; absent for root, who needs none. `journal`: path of a file of root's
 * that says what is shared, written before, removed after: see `takeBackShares`.
 * @throws JailError LAUNCH; what was added by then is taken away again.
 */
export async function shareWorkspace(
  system: System,
  spec: LaunchSpec,
  caller: string | undefined,
  journal?: string,
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
    // What could not be taken away stays written down.
    if (journal !== undefined && lines.length === 0) await system.removeFile(journal)
    return lines
  }
  if (journal !== undefined) await system.writeFile(journal, JSON.stringify(entries), 0o600)
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

/**
 * After a crash: takes away what the journal says was shared, and the journal. Entries that are not there any more, or
 * not yet, are none to take away. Idempotent.
 * @throws JailError STATE where an entry stays; the journal stays too.
 */
export async function takeBackShares(system: System, journal: string): Promise<void> {
  const text = await system.readFile(journal)
  if (text === undefined) return
  for (const [entry, path] of parseJournal(text, journal).reverse()) {
    const { code, stderr } = await system.run([chmod, '-R', '-a', entry, path], { timeout })
    if (code !== 0 && !/No matching ACL|No such file|Unable to translate/.test(stderr))
      throw new JailError('STATE', `an access list of ${path} keeps an entry: ${firstLine(stderr)}`)
  }
  await system.removeFile(journal)
}

function parseJournal(text: string, path: string): (readonly [entry: string, path: string])[] {
  const bad = new JailError('STATE', `the state file ${path} cannot be used`, {
    hint: 'see which access lists are left with: ls -led; then remove the file',
  })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw bad
  }
  if (!Array.isArray(value)) throw bad
  return value.map((one: unknown) => {
    const [entry, place] = Array.isArray(one) ? (one as unknown[]) : []
    if (typeof entry !== 'string' || typeof place !== 'string' || !place.startsWith('/')) throw bad
    return [entry, place] as const
  })
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
