/**
 * What in a tree must be guarded so that the caller's own git runs nothing that the jail wrote: hooks and settings of each
 * repository, wherever its layout puts them inside the tree.
 * Invariant: looks, and changes nothing. A layout whose links could be replaced is read-only as a whole.
 */
import { accessSync, constants, lstatSync, readdirSync, realpathSync, type Dirent } from 'node:fs'
import { dirname, isAbsolute, join, normalize } from 'node:path'
import { gitReadOnly } from './guard-names.js'
import { readSmall } from './small-file.js'
import type { Guard } from './workspace-walk.js'

/** Larger is no configuration of git's that somebody wrote; the rest of it is not looked at. */
const configBytes = 256 * 1024

/** A directory that git takes for a repository wherever it lies, without being named `.git`. */
export function isBare(entries: readonly Dirent[]): boolean {
  const has = (name: string): boolean => entries.some((entry) => entry.name === name)
  return has('HEAD') && has('objects') && has('refs')
}

/**
 * Of one repository.
 * @param root the tree, absolute. @param path the `.git` or bare directory in it, as it was found.
 */
export function gitGuards(root: string, path: string, bare: boolean): Guard[] {
  return new Repository(root, bare ? path : dirname(path)).all(path, bare)
}

class Repository {
  readonly #root: string
  /** Where a relative `core.hooksPath` starts. */
  readonly #top: string
  readonly #seen = new Set<string>()

  constructor(root: string, top: string) {
    this.#root = root
    this.#top = top
  }

  all(path: string, bare: boolean): Guard[] {
    if (bare) return this.#directory(path)
    const stat = lstatSync(this.#at(path), { throwIfNoEntry: false })
    if (stat === undefined) return []
    if (stat.isSymbolicLink()) return this.#directory(this.#inTree(this.#at(path)))
    if (stat.isDirectory()) return this.#directory(path)
    const [, to] = /^gitdir: *(.*)$/m.exec(readSmall(this.#at(path), 4096) ?? '') ?? []
    return [
      { kind: 'read-only', path, directory: false },
      ...this.#directory(this.#leads(dirname(path), to)),
    ]
  }

  /** A Git directory, with those of its submodules and work trees. */
  #directory(path: string | undefined): Guard[] {
    if (path === undefined || this.#seen.has(path)) return []
    this.#seen.add(path)
    const below = (name: string): Guard[] =>
      this.#list(`${path}/${name}`)
        .filter((entry) => entry.isDirectory())
        .flatMap((entry) => this.#nested(`${path}/${name}/${entry.name}`, 3))
    return [...this.#one(path), ...below('modules'), ...below('worktrees')]
  }

  /** @param levels how far down the Git directory may be: a submodule's name can have slashes. */
  #nested(path: string, levels: number): Guard[] {
    const list = this.#list(path)
    if (levels === 0 || list.some(({ name }) => name === 'HEAD')) return this.#one(path)
    return list
      .filter((entry) => entry.isDirectory())
      .flatMap((entry) => this.#nested(`${path}/${entry.name}`, levels - 1))
  }

  #one(path: string): Guard[] {
    const present = new Map(this.#list(path).map((entry) => [entry.name, entry]))
    const links = gitReadOnly.filter((name) => present.get(name)?.isSymbolicLink() === true)
    const settings = readSmall(this.#at(`${path}/config`), configBytes) ?? ''
    const wantsOwn = /^\s*worktreeConfig\b/im.test(settings)
    // Nothing can be mounted over a link, and whoever may write beside it may replace it.
    const own: Guard[] =
      links.length > 0
        ? [{ kind: 'read-only', path, directory: true }]
        : gitReadOnly.flatMap((name) => this.#guard(path, name, present.get(name), wantsOwn))
    const common = present.has('commondir')
      ? this.#leads(path, readSmall(this.#at(`${path}/commondir`), 4096))
      : undefined
    return [
      ...own,
      ...links.flatMap((name) => this.#existing(`${path}/${name}`)),
      ...this.#named(path, settings),
      ...(common === path ? [] : this.#directory(common)),
    ]
  }

  #guard(path: string, name: string, entry: Dirent | undefined, wantsOwn: boolean): Guard[] {
    const guard = { kind: 'read-only', path: `${path}/${name}` } as const
    if (entry !== undefined) {
      const left = name === 'commondir' && isPlaceholder(this.#at(guard.path))
      const directory = entry.isDirectory()
      return [{ ...guard, directory, ...(left ? { make: 'placeholder' } : {}) }]
    }
    // Where nothing can be made, nothing has to be held: the jail sees it read-only, too.
    if (isReadOnly(this.#at(path))) return []
    if (name === 'hooks') return [{ ...guard, directory: true, make: 'directory' }]
    if (name === 'commondir') return [{ ...guard, directory: false, make: 'placeholder' }]
    return name === 'config.worktree' && wantsOwn
      ? [{ ...guard, directory: false, make: 'empty' }]
      : []
  }

  /** What the settings name: a directory of hooks, further settings. */
  #named(path: string, settings: string): Guard[] {
    const values = (key: string): string[] =>
      [
        ...settings.matchAll(new RegExp(String.raw`^\s*${key}\s*=\s*"?([^"\r\n]*?)"?\s*$`, 'gim')),
      ].map(([, value = '']) => value)
    const included = values('path').flatMap((value) => {
      const at = this.#leads(path, value)
      const text = at === undefined ? undefined : readSmall(this.#at(at), configBytes)
      const further = at === undefined || text === undefined || this.#seen.has(at)
      if (at !== undefined) this.#seen.add(at)
      return [
        ...this.#held(path, value, 'empty'),
        ...(further ? [] : this.#named(dirname(at), text)),
      ]
    })
    return [
      ...values('hooksPath').flatMap((value) => this.#held(this.#top, value, 'directory')),
      ...included,
    ]
  }

  /** A path in settings, whether it is there or not: what is missing is made as far as the jail could make it. */
  #held(from: string, value: string, make: 'directory' | 'empty'): Guard[] {
    if (value === '' || value.startsWith('~')) return []
    const whole = normalize(isAbsolute(value) ? value : join(this.#root, from, value))
    if (!whole.startsWith(`${this.#root}/`)) return []
    const parts = whole
      .slice(this.#root.length + 1)
      .replace(/\/+$/, '')
      .split('/')
    for (let n = 1; n <= parts.length; n++) {
      const path = parts.slice(0, n).join('/')
      if (lstatSync(this.#at(path), { throwIfNoEntry: false }) !== undefined) continue
      if (isReadOnly(dirname(this.#at(path)))) return []
      const directory = make === 'directory' || n < parts.length
      return [{ kind: 'read-only', path, directory, make: directory ? 'directory' : make }]
    }
    return this.#existing(parts.join('/'))
  }

  #existing(path: string): Guard[] {
    const real = this.#inTree(this.#at(path))
    if (real === undefined) return []
    const directory = lstatSync(this.#at(real), { throwIfNoEntry: false })?.isDirectory() === true
    return [{ kind: 'read-only', path: real, directory }]
  }

  /** Where a path that a file of git's names leads, from the tree's root; undefined: not into it. */
  #leads(from: string, text: string | undefined): string | undefined {
    const to = text?.split(/\r?\n/)[0]
    if (to === undefined || to === '') return undefined
    return this.#inTree(isAbsolute(to) ? to : join(this.#root, from, to))
  }

  #inTree(path: string): string | undefined {
    try {
      const real = realpathSync(path)
      return real.startsWith(`${this.#root}/`) ? real.slice(this.#root.length + 1) : undefined
    } catch {
      return undefined
    }
  }

  #at(path: string): string {
    return `${this.#root}/${path}`
  }

  #list(path: string): Dirent[] {
    try {
      return readdirSync(this.#at(path), { withFileTypes: true })
    } catch {
      return []
    }
  }
}

/**
 * `commondir` in a Git directory names the one whose settings hold; `.` is itself, the same as none.
 * While it is there, read-only, the jail can put none of its own in its place.
 */
const placeholderText = '.\n'

function isPlaceholder(path: string): boolean {
  return readSmall(path, placeholderText.length + 1) === placeholderText
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
