/**
 * Finds what must be guarded in a tree that the jail may write, before it is mounted.
 * Invariant: bounded in depth and number; symbolic links are never followed (the mount step checks
 * again, by descriptor, that nothing became one meanwhile).
 */
import {
  accessSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readSync,
  type Dirent,
} from 'node:fs'
import {
  gitReadOnly,
  guardOf,
  isInstruction,
  unwalkedNames,
  type GuardKind,
} from './guard-names.js'

export interface Guard {
  readonly kind: GuardKind
  /** From the tree's root; `.` is the root itself. */
  readonly path: string
  readonly directory: boolean
  /** It was missing and is made: hooks stays, an empty directory; a placeholder file goes again at the end. */
  readonly make?: 'directory' | 'placeholder'
}

export interface Walk {
  /** Directories that are a repository's. */
  readonly repositories: readonly string[]
  readonly guards: readonly Guard[]
  /** Files of instructions for agents, and when each was last changed: milliseconds since the epoch. */
  readonly instructions: ReadonlyMap<string, number>
  /** The tree is larger than the bound: what lies beyond is not guarded. */
  readonly cut: boolean
}

/** Levels below the root that are looked at, and directories in all: some 20 ms at most. */
export const walkDepth = 4
const walkDirectories = 2000

/** @param named absolute paths that the policy names: never hidden. */
export function walkTree(root: string, named: ReadonlySet<string>): Walk {
  const guards: Guard[] = []
  const repositories: string[] = []
  const instructions = new Map<string, number>()
  const queue: { path: string; depth: number }[] = [{ path: '', depth: 0 }]
  let seen = 0
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    seen += 1
    if (seen > walkDirectories) return { guards, repositories, instructions, cut: true }
    for (const entry of entries(`${root}/${next.path}`)) {
      const path = next.path === '' ? entry.name : `${next.path}/${entry.name}`
      if (entry.isSymbolicLink()) continue
      const directory = entry.isDirectory()
      if (entry.name === '.git') {
        repositories.push(path)
        guards.push(...gitGuards(root, path, directory))
        continue
      }
      if (isInstruction(path)) instructions.set(path, changeOf(`${root}/${path}`))
      const kind = guardOf(path)
      if (kind !== undefined && !named.has(`${root}/${path}`)) {
        guards.push({ kind, path, directory })
      } else if (directory && next.depth < walkDepth && !unwalkedNames.has(entry.name)) {
        queue.push({ path, depth: next.depth + 1 })
      }
    }
  }
  return { guards, repositories, instructions, cut: false }
}

/** A work tree's `.git`: a file that points elsewhere, or the directory and those of its submodules and work trees. */
function gitGuards(root: string, path: string, directory: boolean): Guard[] {
  if (!directory) return [{ kind: 'read-only', path, directory: false }]
  const below = (name: string): Guard[] =>
    entries(`${root}/${path}/${name}`)
      .filter((entry) => entry.isDirectory())
      .flatMap((entry) => gitDirGuards(root, `${path}/${name}/${entry.name}`, 3))
  return [...gitDirGuards(root, path, 0), ...below('modules'), ...below('worktrees')]
}

/** @param levels how far down the Git directory may be: a submodule's name can have slashes. */
function gitDirGuards(root: string, path: string, levels: number): Guard[] {
  const present = new Map(entries(`${root}/${path}`).map((entry) => [entry.name, entry]))
  if (!present.has('HEAD') && levels > 0) {
    return [...present.values()]
      .filter((entry) => entry.isDirectory())
      .flatMap((entry) => gitDirGuards(root, `${path}/${entry.name}`, levels - 1))
  }
  return gitReadOnly.flatMap((name): Guard[] => {
    const entry = present.get(name)
    const guard = { kind: 'read-only', path: `${path}/${name}` } as const
    if (entry?.isSymbolicLink() === true) return []
    if (entry !== undefined) {
      const left = name === 'commondir' && isPlaceholder(`${root}/${path}/${name}`)
      const directory = entry.isDirectory()
      return [{ ...guard, directory, ...(left ? { make: 'placeholder' } : {}) }]
    }
    // Where nothing can be made, nothing has to be held: the jail sees it read-only, too.
    if (isReadOnly(`${root}/${path}`)) return []
    if (name === 'hooks') return [{ ...guard, directory: true, make: 'directory' }]
    return name === 'commondir' ? [{ ...guard, directory: false, make: 'placeholder' }] : []
  })
}

/**
 * `commondir` in a Git directory names the one whose settings hold; `.` is itself, the same as none.
 * While it is there, read-only, the jail can put none of its own in its place.
 */
export const placeholderText = '.\n'

/** Only what cannot block or be large is read: the command may have made it, and may change it this very moment. */
function isPlaceholder(path: string): boolean {
  let file
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW)
    const bytes = Buffer.alloc(placeholderText.length + 1)
    const stat = fstatSync(file)
    return stat.isFile() && bytes.toString('utf8', 0, readSync(file, bytes)) === placeholderText
  } catch {
    return false
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

/** As root: only a file system or a mount that is read-only refuses so. */
function isReadOnly(directory: string): boolean {
  try {
    accessSync(directory, constants.W_OK)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EROFS'
  }
}

function changeOf(path: string): number {
  return lstatSync(path, { throwIfNoEntry: false })?.ctimeMs ?? 0
}

function entries(path: string): Dirent[] {
  try {
    return readdirSync(path, { withFileTypes: true })
  } catch {
    return []
  }
}

/** Every directory between the root and a path that is mounted over, parents first: pinned, so that none can be renamed away. */
export function ancestorsOf(guards: readonly Pick<Guard, 'path'>[]): readonly string[] {
  const all = new Set<string>()
  for (const guard of guards) {
    const parts = guard.path.split('/')
    for (let n = 1; n < parts.length; n++) all.add(parts.slice(0, n).join('/'))
  }
  return [...all].sort((a, b) => a.split('/').length - b.split('/').length || (a < b ? -1 : 1))
}
