/**
 * Finds what must be guarded in a tree that the jail may write, before it is mounted.
 * Invariant: bounded in depth and number; symbolic links are never followed (the mount step checks
 * again, by descriptor, that nothing became one meanwhile).
 */
import { readdirSync, type Dirent } from 'node:fs'
import { gitReadOnly, guardOf, unwalkedNames, type GuardKind } from './guard-names.js'

export interface Guard {
  readonly kind: GuardKind
  /** From the tree's root; `.` is the root itself. */
  readonly path: string
  readonly directory: boolean
  /** To be made, empty, where it is missing. */
  readonly make?: boolean
}

export interface Walk {
  readonly guards: readonly Guard[]
  /** The tree is larger than the bound: what lies beyond is not guarded. */
  readonly cut: boolean
}

/** Levels below the root that are looked at, and directories in all: some 20 ms at most. */
export const walkDepth = 4
const walkDirectories = 2000

/** @param named absolute paths that the policy names: never hidden. */
export function walkTree(root: string, named: ReadonlySet<string>): Walk {
  const guards: Guard[] = []
  const queue: { path: string; depth: number }[] = [{ path: '', depth: 0 }]
  let seen = 0
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    seen += 1
    if (seen > walkDirectories) return { guards, cut: true }
    for (const entry of entries(`${root}/${next.path}`)) {
      const path = next.path === '' ? entry.name : `${next.path}/${entry.name}`
      if (entry.isSymbolicLink()) continue
      const directory = entry.isDirectory()
      if (entry.name === '.git') {
        guards.push(...gitGuards(root, path, directory))
        continue
      }
      const kind = guardOf(path)
      if (kind !== undefined && !named.has(`${root}/${path}`)) {
        guards.push({ kind, path, directory })
      } else if (directory && next.depth < walkDepth && !unwalkedNames.has(entry.name)) {
        queue.push({ path, depth: next.depth + 1 })
      }
    }
  }
  return { guards, cut: false }
}

/** A work tree's `.git`: a file that points elsewhere, or the directory and those of its submodules. */
function gitGuards(root: string, path: string, directory: boolean): Guard[] {
  if (!directory) return [{ kind: 'read-only', path, directory: false }]
  const present = new Map(entries(`${root}/${path}`).map((entry) => [entry.name, entry]))
  const guards: Guard[] = []
  for (const name of gitReadOnly) {
    const entry = present.get(name)
    if (entry !== undefined && !entry.isSymbolicLink()) {
      guards.push({
        kind: 'read-only',
        path: `${path}/${name}`,
        directory: entry.isDirectory(),
      })
    } else if (name === 'hooks' && entry === undefined) {
      guards.push({ kind: 'read-only', path: `${path}/hooks`, directory: true, make: true })
    }
  }
  if (present.get('modules')?.isDirectory() === true) {
    for (const entry of entries(`${root}/${path}/modules`)) {
      if (entry.isDirectory())
        guards.push(...gitGuards(root, `${path}/modules/${entry.name}`, true))
    }
  }
  return guards
}

function entries(path: string): Dirent[] {
  try {
    return readdirSync(path, { withFileTypes: true })
  } catch {
    return []
  }
}

/** Every directory between the root and a guarded path, parents first: pinned, so that none can be renamed away. */
export function ancestorsOf(guards: readonly Guard[]): readonly string[] {
  const all = new Set<string>()
  for (const guard of guards) {
    const parts = guard.path.split('/')
    for (let n = 1; n < parts.length; n++) all.add(parts.slice(0, n).join('/'))
  }
  return [...all].sort((a, b) => a.split('/').length - b.split('/').length || (a < b ? -1 : 1))
}
