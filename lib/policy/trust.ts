/**
 * Whether a policy file can be trusted: who could have written it, or put it in place.
 * Invariant: what counts is the open descriptor, and every directory above the path; a doubt is a refusal.
 */
import { spawn } from 'node:child_process'
import { constants, type Stats } from 'node:fs'
import { type FileHandle, lstat, open, realpath } from 'node:fs/promises'
import { dirname } from 'node:path'
import { JailError } from '../errors.js'
import { shellWord } from '../shell-word.js'
import { noFollow, parseMachine, stepCalls } from '../system/syscall-numbers.js'
import { findTool } from '../system/tools.js'
import { othersMayWrite } from './access-list.js'

type Kind = 'file' | 'directory' | 'link'

/** @throws JailError POLICY_UNSAFE where anyone but root or the caller could have written it, or put another in its place. */
export async function checkTrust(
  path: string,
  source: string,
  file: FileHandle,
  callerUid: number,
): Promise<void> {
  await checkOwner(source, await file.stat(), callerUid, 'file', () => Promise.resolve(file))
  const checked = new Set<string>()
  // By the path as given, and by the one it leads to.
  for (const start of [path, await realpath(path)]) {
    for (let dir = dirname(start); !checked.has(dir); dir = dirname(dir)) {
      checked.add(dir)
      const stats = await lstat(dir)
      const kind = stats.isSymbolicLink() ? 'link' : 'directory'
      await checkOwner(dir, stats, callerUid, kind, () =>
        open(
          dir,
          constants.O_RDONLY | constants.O_DIRECTORY | noFollow[parseMachine(process.arch)],
        ),
      )
    }
  }
}

async function checkOwner(
  path: string,
  stats: Stats,
  callerUid: number,
  kind: Kind,
  opened: () => Promise<FileHandle>,
): Promise<void> {
  const what = kind === 'file' ? `the policy ${path}` : `${path}, above the policy,`
  if (stats.uid !== 0 && stats.uid !== callerUid) {
    throw new JailError('POLICY_UNSAFE', `${what} belongs to uid ${String(stats.uid)}`, {
      hint: `it must belong to root or to you: chown ${String(callerUid)} ${shellWord(path)}`,
    })
  }
  // A link's own mode means nothing; a sticky directory (/tmp) lets nobody replace another's file.
  const isSticky = kind === 'directory' && (stats.mode & 0o1000) !== 0
  if (kind === 'link' || isSticky || (stats.mode & 0o022) === 0) return
  const onlyGroup = (stats.mode & 0o002) === 0
  if (onlyGroup && (await isSharedWorkspace(stats, callerUid, kind, opened))) return
  throw new JailError(
    'POLICY_UNSAFE',
    `${what} can be written by others (mode ${(stats.mode & 0o7777).toString(8)})`,
    { hint: `run: chmod go-w ${shellWord(path)}` },
  )
}

/**
 * While a jail runs in a workspace that is shared by access lists, the group's bits of a directory's mode show what the
 * jail may do there. It may write the directory, but what the policies are in is mounted over in the jail, and a file of
 * theirs has no entry that can write.
 */
async function isSharedWorkspace(
  stats: Stats,
  callerUid: number,
  kind: Kind,
  opened: () => Promise<FileHandle>,
): Promise<boolean> {
  if (process.platform !== 'linux') return false
  const { loadConfig } = await import('../setup/config.js')
  const { first, last } = (await loadConfig()).uidRange
  const handle = await opened()
  try {
    const now = await handle.stat()
    const list = await accessList(handle)
    if (now.ino !== stats.ino || now.dev !== stats.dev || list === undefined) return false
    return !othersMayWrite(
      list,
      (uid) =>
        uid === 0 || uid === callerUid || (kind === 'directory' && first <= uid && uid <= last),
    )
  } finally {
    if (kind === 'directory') await handle.close()
  }
}

/** Node reads no extended attributes. Prints the list in hexadecimal digits. */
const readScript = String.raw`my ($b, $at, $name) = ("\0" x 65536, "/proc/self/fd/3\0", "system.posix_acl_access\0");
my $n = syscall $ARGV[0], $at, $name, $b, length $b;
print unpack 'H*', substr $b, 0, $n if $n > 0;`

async function accessList(handle: FileHandle): Promise<Buffer | undefined> {
  const perl = findTool('perl')
  if (perl.state !== 'found') return undefined
  const number = String(stepCalls[parseMachine(process.arch)].getxattr)
  return await new Promise((resolve) => {
    const child = spawn(perl.path, ['-e', readScript, number], {
      stdio: ['ignore', 'pipe', 'ignore', handle.fd],
      env: { LC_ALL: 'C' },
    })
    let text = ''
    child.stdout?.setEncoding('latin1').on('data', (data: string) => (text += data))
    child.on('error', () => resolve(undefined))
    child.on('close', () => resolve(text === '' ? undefined : Buffer.from(text, 'hex')))
  })
}
