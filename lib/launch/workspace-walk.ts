/**
 * Finds what must be guarded in a tree that the jail may write, before it is mounted.
 * Invariant: bounded in depth and number; symbolic links are never followed out of the tree (the mount step checks
 * again, by descriptor, that nothing became one meanwhile).
 */
import { lstatSync, readdirSync, readlinkSync, realpathSync, type Dirent } from 'node:fs'
import { gitGuards, isBare } from './git-guards.js'
import {
  guardOf,
  isInstruction,
  isPolicyText,
  mayBePolicy,
  unwalkedNames,
  type GuardKind,
} from './guard-names.js'
import { readSmall } from './small-file.js'

export interface Guard {
  readonly kind: GuardKind
  /** From the tree's root; `.` is the root itself. */
  readonly path: string
  readonly directory: boolean
  /** It was missing and is made: a directory stays, empty; a placeholder file, with a dot or empty, goes again at the end. */
  readonly make?: 'directory' | 'placeholder' | 'empty'
}

export interface Walk {
  /** Directories that are a repository's. */
  readonly repositories: readonly string[]
  readonly guards: readonly Guard[]
  /** Files of instructions for agents, and when each was last changed: milliseconds since the epoch. */
  readonly instructions: ReadonlyMap<string, number>
  /** Links under names that programs trust, which cannot be guarded themselves, and where each leads. */
  readonly links: ReadonlyMap<string, string>
  /** Policies of agentjail's. */
  readonly policies: readonly string[]
  /** The tree is larger than the bound: what lies beyond is not guarded. */
  readonly cut: boolean
}

/** Levels below the root that are looked at, and directories in all: some 20 ms at most. */
const walkDepth = 4
const walkDirectories = 2000

/** @param named absolute paths that the policy names: never hidden. */
export function walkTree(root: string, named: ReadonlySet<string>): Walk {
  const guards: Guard[] = []
  const repositories: string[] = []
  const instructions = new Map<string, number>()
  const links = new Map<string, string>()
  const policies: string[] = []
  const queue: { path: string; depth: number }[] = [{ path: '', depth: 0 }]
  const done = (cut: boolean): Walk => ({
    ...{ repositories, instructions, links, policies, cut },
    guards: once(guards),
  })
  for (let next = queue.shift(), seen = 1; next !== undefined; next = queue.shift(), seen++) {
    if (seen > walkDirectories) return done(true)
    const list = entries(`${root}/${next.path}`)
    if (next.path !== '' && isBare(list)) {
      repositories.push(next.path)
      guards.push(...gitGuards(root, next.path, true))
    }
    for (const entry of list) {
      const path = next.path === '' ? entry.name : `${next.path}/${entry.name}`
      const isGit = entry.name.toLowerCase() === '.git'
      const kind = named.has(`${root}/${path}`) ? undefined : guardOf(path)
      if (isGit) {
        repositories.push(path)
        guards.push(...gitGuards(root, path, false))
      }
      if (entry.isSymbolicLink()) {
        if (isGit || kind !== undefined) links.set(path, textOf(`${root}/${path}`))
        if (kind !== undefined) guards.push(...behind(root, path, kind))
        continue
      }
      if (isGit) continue
      const directory = entry.isDirectory()
      if (isInstruction(path)) instructions.set(path, changeOf(`${root}/${path}`))
      if (entry.isFile() && mayBePolicy(path) && isPolicyText(readSmall(`${root}/${path}`, 4096))) {
        policies.push(path)
        if (!named.has(`${root}/${path}`)) guards.push({ kind: 'read-only', path, directory })
      } else if (kind !== undefined) {
        guards.push({ kind, path, directory })
      } else if (directory && next.depth < walkDepth && !unwalkedNames.has(entry.name)) {
        queue.push({ path, depth: next.depth + 1 })
      }
    }
  }
  return done(false)
}

/** What a link leads to, where that lies in the tree. */
function behind(root: string, path: string, kind: GuardKind): Guard[] {
  try {
    const real = realpathSync(`${root}/${path}`)
    if (!real.startsWith(`${root}/`)) return []
    const directory = lstatSync(real).isDirectory()
    return [{ kind, path: real.slice(root.length + 1), directory }]
  } catch {
    return []
  }
}

/** One guard a path, the stricter, parents first, none below what is hidden: links and settings may lead anywhere. */
function once(guards: readonly Guard[]): readonly Guard[] {
  const all = new Map<string, Guard>()
  for (const guard of guards) {
    if (all.get(guard.path)?.kind !== 'hidden') all.set(guard.path, guard)
  }
  const isHidden = (path: string): boolean => all.get(path)?.kind === 'hidden'
  return [...all.values()]
    .filter((guard) => !ancestorsOf([guard]).some(isHidden))
    .sort((a, b) => a.path.split('/').length - b.path.split('/').length)
}

function changeOf(path: string): number {
  return lstatSync(path, { throwIfNoEntry: false })?.ctimeMs ?? 0
}

function textOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
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
