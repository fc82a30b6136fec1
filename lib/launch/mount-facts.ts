/**
 * Looks at the host's file system before a launch: which system directories there are, where
 * resolv.conf and the CA bundles really lie, which trees are to be shown and what to guard in them.
 * Invariant: reads only; every path it returns is canonical (no symbolic link in it).
 */
import {
  accessSync,
  constants,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
} from 'node:fs'
import { basename, dirname, isAbsolute, join, normalize, resolve } from 'node:path'
import { entriesWith } from '../system/passwd.js'
import { JailError } from '../errors.js'
import { caPaths, isUnder, systemTops, toolPrefix, workspaceRefusal } from './places.js'
import type { Homes } from './places.js'
import type { LaunchSpec } from './types.js'
import { walkTree, type Guard, type Walk } from './workspace-walk.js'

/** A tree of the host that the jail sees. */
export interface Tree {
  readonly path: string
  readonly mode: 'ro' | 'rw'
  readonly directory: boolean
  /** The caller's uid on disk appears as the service user's inside, and the other way round. */
  readonly idmap: boolean
  readonly guards: readonly Guard[]
  /** What was there before, from the tree's root; see `Walk`. */
  readonly before: Pick<Walk, 'repositories' | 'instructions' | 'links' | 'policies'>
}

export interface MountFacts {
  /** /usr, /bin, ...: a directory, or a link and its text. */
  readonly tops: readonly { readonly path: string; readonly link?: string }[]
  /** What stands before these paths on the host: empty, or the directory of an image. */
  readonly root: string
  /** Text of an image's files of that name, to which the service user is added; absent: the host's own are shown. */
  readonly accounts?: { readonly passwd: string; readonly group: string }
  /** Parts of /var that programs read. */
  readonly shown: readonly string[]
  readonly trees: readonly Tree[]
  /** Existing paths that the policy or agentjail itself hides. */
  readonly denied: readonly { readonly path: string; readonly directory: boolean }[]
  /** Where the file of that name really lies; absent: the system has none. */
  readonly resolvConf?: string
  readonly hosts?: string
  readonly nsswitch?: string
  readonly caBundles: readonly string[]
  /** The system's roots as Java reads them, where they are replaced. */
  readonly javaStores: readonly string[]
  /** Text of the system's CA bundle; empty: none. */
  readonly caText: string
  /** For the user: what is not as they might expect. */
  readonly notes: readonly string[]
}

/** Debian and Ubuntu; Fedora and its kin. The JDKs there link to it. */
const javaPaths = ['/etc/ssl/certs/java/cacerts', '/etc/pki/java/cacerts']
const shownPaths = ['/var/lib/dpkg', '/var/lib/ca-certificates', '/var/cache/fontconfig']

/** @throws JailError LAUNCH where a path of the policy cannot be shown. */
export function probeMounts(spec: LaunchSpec): MountFacts {
  const notes: string[] = []
  const root = spec.image?.root ?? ''
  const tops = topsOf(root).flatMap((path) => {
    const stat = lstatOf(root + path)
    if (stat?.isSymbolicLink() === true) return [{ path, link: readlinkSync(root + path) }]
    return stat?.isDirectory() === true ? [{ path }] : []
  })
  const caBundles =
    spec.extraCa === undefined
      ? []
      : [...new Set(caPaths.flatMap((path) => inRoot(root, path) ?? []))]
  const javaStores =
    spec.extraCa === undefined
      ? []
      : [...new Set(javaPaths.flatMap((path) => inRoot(root, path) ?? []))]
  const first = caBundles[0]
  const own = root === '' ? ['/etc/agentjail'] : []
  return {
    tops,
    root,
    shown: shownPaths.filter((path) => lstatOf(root + path)?.isDirectory() === true),
    trees: treesOf(spec, notes),
    denied: [...own, ...spec.fs.deny.map((path) => place(spec, path))].flatMap((path) =>
      existing(path).map((real) => ({ path: real, directory: statSync(real).isDirectory() })),
    ),
    ...optional(
      'resolvConf',
      root === '' ? fileTarget('/etc/resolv.conf') : inRoot(root, '/etc/resolv.conf'),
    ),
    ...optional('hosts', inRoot(root, '/etc/hosts')),
    ...optional('nsswitch', inRoot(root, '/etc/nsswitch.conf')),
    ...(root === '' ? {} : { accounts: accountsOf(root) }),
    caBundles,
    javaStores,
    caText: first === undefined ? '' : readFileSync(root + first, 'utf8'),
    notes,
  }
}

function accountsOf(root: string): NonNullable<MountFacts['accounts']> {
  const read = (path: string): string => {
    const at = inRoot(root, path)
    const text = at === undefined ? '' : readFileSync(root + at, 'utf8')
    return text === '' || text.endsWith('\n') ? text : `${text}\n`
  }
  return { passwd: read('/etc/passwd'), group: read('/etc/group') }
}

/** Made anew in each jail, or hidden as on the host. */
const ownTops = ['proc', 'dev', 'sys', 'tmp', 'run', 'home', 'root', 'srv', 'mnt', 'media', 'var']

function topsOf(root: string): readonly string[] {
  if (root === '') return systemTops
  return readdirSync(root).flatMap((name) => (ownTops.includes(name) ? [] : [`/${name}`]))
}

/** The real path of what exists below a root, as seen from there; one that its links lead out of is not there. */
function inRoot(root: string, path: string): string | undefined {
  const real = existing(root + path)[0]
  return real?.startsWith(`${root}/`) === true ? real.slice(root.length) : undefined
}

/** The policy's path made absolute: `~/x` below the service user's home, `x` below the working directory. */
function place(spec: LaunchSpec, path: string): string {
  if (path === '~' || path.startsWith('~/')) return join(spec.user.home, path.slice(1))
  return normalize(resolve(spec.cwd, path)).replace(/(.)\/+$/, '$1')
}

export function treesOf(spec: LaunchSpec, notes: string[]): Tree[] {
  const wanted = new Map<string, 'ro' | 'rw'>()
  const want = (path: string, mode: 'ro' | 'rw'): void => {
    if (wanted.get(path) !== 'rw') wanted.set(path, mode)
  }
  const named = (path: string): string => {
    const real = existing(place(spec, path))[0]
    if (real !== undefined) return real
    throw new JailError('LAUNCH', `fs: ${path}: there is no such file or directory`, {
      hint: 'make it first, or take it out of the policy',
    })
  }
  const writes = spec.fs.write.map(named)
  const reads = spec.fs.read.map(named)
  if (spec.image === undefined) for (const path of tool(spec)) want(path, 'ro')
  for (const path of reads) want(path, 'ro')
  const cwd = existing(spec.cwd)[0]
  if (cwd === undefined) {
    throw new JailError('LAUNCH', `the working directory ${spec.cwd} does not exist`)
  }
  const refusal = workspaceRefusal(cwd, homes())
  if (writes.length > 0) {
    for (const path of writes) want(path, 'rw')
    if (refusal === undefined) want(cwd, 'ro')
  } else if (refusal === undefined) {
    want(cwd, 'rw')
  } else if (!isUnder(cwd, spec.user.home)) {
    notes.push(`${cwd} ${refusal}`)
  }
  const keep = new Set([...writes, ...reads])
  return [...wanted]
    .filter(([path, mode]) => !isUnder(path, spec.user.home) && (mode === 'rw' || !isShown(path)))
    .filter(
      ([path, mode]) =>
        ![...wanted].some(([other, m]) => other !== path && isUnder(path, other) && m === mode),
    )
    .sort(([a], [b]) => a.length - b.length)
    .map(([path, mode]) => tree(spec, path, mode, keep, notes))
}

function tree(
  spec: LaunchSpec,
  path: string,
  mode: 'ro' | 'rw',
  named: ReadonlySet<string>,
  notes: string[],
): Tree {
  const stat = statSync(path)
  const directory = stat.isDirectory()
  const guards: Guard[] = []
  let before: Tree['before'] = {
    ...{ repositories: [], policies: [], instructions: new Map(), links: new Map() },
  }
  if (directory) {
    const walk = walkTree(path, named)
    guards.push(...walk.guards.filter((guard) => mode === 'rw' || guard.kind === 'hidden'))
    before = walk
    if (walk.cut) notes.push(`${path} is large: protected names deep inside it are not looked for`)
  }
  if (mode === 'rw') guards.push(...protect(spec, path))
  if (mode === 'rw' && isOthersToRoot(stat, spec.caller)) {
    notes.push(
      `${path} belongs to uid ${String(stat.uid)}, and root's power over it is not handed on: the command cannot write there; start agentjail as that user`,
    )
  }
  return { path, mode, directory, idmap: stat.uid !== spec.user.uid, guards, before }
}

/** The one case where a caller can write and the command, with no more than an owner's or a group's rights, cannot. */
function isOthersToRoot(
  { uid, gid, mode }: { readonly uid: number; readonly gid: number; readonly mode: number },
  caller: LaunchSpec['caller'],
): boolean {
  if (caller.uid !== 0 || uid === 0) return false
  const isGroups = gid === caller.gid && (mode & 0o020) !== 0
  return !isGroups && (mode & 0o002) === 0
}

/** agentjail's own files inside a writable tree. */
function protect(spec: LaunchSpec, root: string): Guard[] {
  return spec.protect.flatMap((given): Guard[] =>
    existing(given).flatMap((path): Guard[] => {
      if (isUnder(root, path)) return [{ kind: 'read-only', path: '.', directory: true }]
      if (!isUnder(path, root)) return []
      const directory = statSync(path).isDirectory()
      return [{ kind: 'read-only', path: path.slice(root.length).replace(/^\//, ''), directory }]
    }),
  )
}

/** Where the command's own program lies, when that is not a system directory (nvm, pyenv, ~/bin). */
function tool(spec: LaunchSpec): string[] {
  const name = spec.command[0]
  const found = name.includes('/')
    ? [resolve(spec.cwd, name)]
    : (spec.env.get('PATH') ?? '').split(':').map((dir) => join(dir, name))
  const file = found.find((path) => isAbsolute(path) && isRunnable(path))
  if (file === undefined) return []
  const real = existing(file)[0]
  const known = homes()
  return [file, ...(real === undefined ? [] : [real])]
    .flatMap((path) => existing(dirname(path)).map((dir) => join(dir, basename(path))))
    .filter((path) => !isUnder(path, spec.cwd) && !isShown(path))
    .map((path) => toolPrefix(path, known))
}

function isShown(path: string): boolean {
  return systemTops.some((top) => isUnder(path, top))
}

function isRunnable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

/** Of root and of people: uid 1000 and up. */
function homes(): Homes {
  const text = readFileSync('/etc/passwd', 'utf8')
  return {
    has: (path) =>
      entriesWith(text, `:${path}:`).some(
        ({ uid, home }) => home === path && (uid === 0 || uid >= 1000),
      ),
  }
}

/** The real path of what exists; else nothing. */
function existing(path: string): string[] {
  try {
    return [realpathSync(path)]
  } catch {
    return []
  }
}

/** Where a file would be, also where its link leads to something that is not there now. */
function fileTarget(path: string): string | undefined {
  let at = path
  for (let hops = 0; hops < 8; hops++) {
    const dir = existing(dirname(at))[0]
    if (dir === undefined) return at === path ? undefined : normalize(at)
    const inDir = join(dir, basename(at))
    const stat = lstatOf(inDir)
    if (stat === undefined) return inDir === path ? undefined : inDir
    if (!stat.isSymbolicLink()) return inDir
    at = resolve(dir, readlinkSync(inDir))
  }
  return undefined
}

function lstatOf(path: string): ReturnType<typeof lstatSync> | undefined {
  return lstatSync(path, { throwIfNoEntry: false })
}

function optional<K extends string>(key: K, value: string | undefined): Partial<Record<K, string>> {
  return value === undefined ? {} : ({ [key]: value } as Record<K, string>)
}
