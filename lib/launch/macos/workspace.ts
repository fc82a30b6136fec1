/**
 * Lets the service user write where the policy says, and the caller keep access to what it makes: by access lists.
 * Invariants: what was added is taken away at the end; owner, group and mode of files stay as they are. Entries are
 * changed with the rights of who owns the files, never with root's: a link or another file that is put in the way
 * meanwhile leads only to what its owner may change anyway.
 */
import { JailError } from '../../errors.js'
import { revoke, underLicence } from '../../system/licence.js'
import type { Argv, CommandResult, System } from '../../system/types.js'
import type { LaunchSpec } from '../types.js'

const chmod = '/bin/chmod'
const sudo = '/usr/bin/sudo'
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

export interface Sharer {
  readonly caller: string | undefined
  readonly sharerOf: (path: string) => Promise<string>
}

interface Share {
  /** Of chmod(1), e.g. `user:aj-bot allow list`. */
  readonly entry: string
  readonly path: string
  /** Account with whose rights lists are changed. */
  readonly as: string
}

/**
 * `caller`: name of the account that called; absent for root, who needs no entry. `sharerOf`: the account with whose
 * rights a place is shared.
 * `journal`: path of a file of root's that says what is shared, written before, removed after: see `takeBackShares`. It is
 * the licence of what adds entries, which goes on when this process is killed.
 * @throws JailError LAUNCH; what was added by then is taken away again.
 */
export async function shareWorkspace(
  system: System,
  spec: LaunchSpec,
  { caller, sharerOf }: Sharer,
  journal?: string,
): Promise<Unshare> {
  const jail = spec.user.name
  const shares: Share[] = []
  for (const path of writablePlaces(spec)) {
    const as = await sharerOf(path)
    for (const name of [jail, ...(caller === undefined ? [] : [caller])])
      for (const right of rights) shares.push({ entry: `user:${name} allow ${right}`, path, as })
  }
  const added: Share[] = []
  const undo: Unshare = async () => {
    const lines: string[] = []
    for (const share of added.splice(0).reverse()) {
      const { code, stderr } = await change(system, '-a', share, jail)
      if (code !== 0)
        lines.push(`an access list of ${share.path} keeps an entry: ${firstLine(stderr)}`)
    }
    // What could not be taken away stays written down.
    if (journal !== undefined && lines.length === 0) await system.removeFile(journal)
    return lines
  }
  if (journal !== undefined)
    await system.writeFile(journal, JSON.stringify({ jail, shares }), 0o600)
  for (const share of shares) {
    added.push(share)
    const { code, stderr } = await change(system, '+a', share, jail, journal)
    if (code === 0) continue
    // Where it stopped half way; the place itself has no such entry to give back.
    added.pop()
    await change(system, '-a', share, jail)
    await undo()
    throw new JailError(
      'LAUNCH',
      `${share.path} cannot be shared with ${jail}: ${firstLine(stderr)}`,
      {
        hint: `it must belong to ${share.as}, as whom it is shared; macOS keeps Documents, Desktop, Downloads and other volumes closed: work below /Users/Shared, or give Full Disk Access`,
      },
    )
  }
  return undo
}

/**
 * After a crash: takes away what the journal says was shared, and the journal. Entries that are not there any more, or
 * never came, are none to take away; what still adds some is waited for. Idempotent.
 * @throws JailError STATE where an entry stays, or is still being added; the journal stays too.
 */
export async function takeBackShares(system: System, journal: string): Promise<void> {
  const revoked = await revoke(system, journal)
  const text = await system.readFile(revoked)
  if (text === undefined) return
  const { jail, shares } = parseJournal(text, revoked)
  for (const share of [...shares].reverse()) {
    const { code, stderr } = await change(system, '-a', share, jail)
    if (code !== 0 && !/Unable to translate|unknown user/.test(stderr))
      throw new JailError(
        'STATE',
        `an access list of ${share.path} keeps an entry: ${firstLine(stderr)}`,
      )
  }
  await system.removeFile(revoked)
}

/** Lines of chmod(1) on files of other accounts, which stay as they are, and on files that went meanwhile. */
const passedOver = /Operation not permitted|Permission denied|No such file|No matching ACL/

/**
 * Below a place the files of two accounts are changed: of who shares it, and of the jail's own user, which made some at
 * an earlier run. The answer is that for the place itself. `licence`: see `underLicence`.
 */
async function change(
  system: System,
  verb: '+a' | '-a',
  { entry, path, as }: Share,
  jail: string,
  licence?: string,
): Promise<CommandResult> {
  const run = (user: string, ...args: string[]): Promise<CommandResult> => {
    const argv: Argv = [sudo, '-n', '-u', user, '--', chmod, ...args, verb, entry, path]
    return system.run(licence === undefined ? argv : underLicence(licence, argv), { timeout })
  }
  // Only itself, and no link in its place: with root's rights nothing below may be walked that others can change.
  if (as === 'root') return gone(verb, await run(as, '-h'))
  const all = await run(as, '-R', '-P')
  const lines = all.stderr.split('\n').filter((line) => line !== '')
  if (all.code !== 0 && !(lines.length > 0 && lines.every((line) => passedOver.test(line))))
    return all
  if (jail !== as) await run(jail, '-f', '-R', '-P')
  return all.code === 0 ? all : gone(verb, await run(as, '-h'))
}

/** What is not there has been taken away. */
function gone(verb: '+a' | '-a', result: CommandResult): CommandResult {
  const isGone = verb === '-a' && /No matching ACL|No such file/.test(result.stderr)
  return isGone ? { ...result, code: 0 } : result
}

function parseJournal(text: string, path: string): { jail: string; shares: readonly Share[] } {
  const bad = new JailError('STATE', `the state file ${path} cannot be used`, {
    hint: 'see which access lists are left with: ls -led; then remove the file',
  })
  const isAccount = (name: unknown): name is string =>
    typeof name === 'string' && /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(name)
  let value: { readonly jail?: unknown; readonly shares?: unknown } | null
  try {
    value = JSON.parse(text) as typeof value
  } catch {
    throw bad
  }
  const { jail, shares } = value ?? {}
  if (!isAccount(jail) || !Array.isArray(shares)) throw bad
  return {
    jail,
    shares: shares.map((one: Partial<Record<keyof Share, unknown>> | null) => {
      const { entry, path: place, as } = one ?? {}
      if (typeof entry !== 'string' || typeof place !== 'string' || !place.startsWith('/'))
        throw bad
      if (!isAccount(as)) throw bad
      return { entry, path: place, as }
    }),
  }
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
