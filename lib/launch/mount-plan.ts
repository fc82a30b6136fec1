/**
 * What the jail's file system is, as bwrap's arguments and as operations of the outer step.
 * Invariant: pure; the root is an empty tmpfs, so what is not named here is not there.
 */
import { basename } from 'node:path'
import { ancestorsOf } from './workspace-walk.js'
import type { MountFacts, Tree } from './mount-facts.js'
import type { LaunchSpec } from './types.js'

/** A file that bwrap makes from a descriptor. */
interface DataFile {
  readonly path: string
  readonly data: string | Buffer
}

export interface MountPlan {
  /** For the outer step, before bwrap. */
  readonly stage: readonly string[]
  /** For bwrap, after its namespace options; `files` follow as --ro-bind-data in this order. */
  readonly bwrap: readonly string[]
  readonly files: readonly DataFile[]
  /** After the files: what is sealed. */
  readonly seal: readonly string[]
}

/** What a command trusts where a CA of the jail's own is one of its roots. */
export interface Trust {
  /** PEM of that CA. */
  readonly own: string
  /** PEM of the system's roots and that one. */
  readonly merged: string
  /** The same for Java, where the system has a store of it. */
  readonly java?: Buffer
}

/** Where the two CA files lie inside. */
export const caPath = '/run/agentjail/ca.crt'
export const caBundlePath = '/run/agentjail/ca-bundle.crt'

const megabyte = 1024 * 1024
/** Private and limited, each. */
export const scratchPaths = ['/tmp', '/var/tmp', '/dev/shm'] as const
/** Bytes of each, where the policy sets no limit. */
export const defaultTmp = 1024 * megabyte
const runSize = 16 * megabyte

/** The rest of nsswitch.conf is of no use to an account without a network of its own. */
const nsswitch = `passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
netgroup: files
`

/** @param staging a directory of root's; the outer step mounts a tmpfs of its own there. */
export function planMounts(
  spec: LaunchSpec,
  facts: MountFacts,
  staging: string,
  options: { readonly idmap: boolean; readonly trust: Trust | undefined },
): MountPlan {
  const tmp = String(spec.limits.tmp ?? defaultTmp)
  const scratch = (path: string, size = tmp): string[] => [
    ...['--perms', '1777', '--size', size, '--tmpfs', path],
  ]
  const bwrap = [
    ...facts.tops.flatMap(({ path, link }) =>
      link === undefined ? ['--ro-bind', facts.root + path, path] : ['--symlink', link, path],
    ),
    ...['--proc', '/proc', '--dev', '/dev', ...scratch('/dev/shm')],
    ...[...scratch('/tmp'), ...scratch('/var/tmp')],
    ...['--perms', '0755', '--size', String(runSize), '--tmpfs', '/run'],
    ...['--symlink', '/run', '/var/run', '--symlink', '/run/lock', '/var/lock'],
    ...directories([
      ...['/home/', '/root/', '/srv/', '/mnt/', '/media/', '/var/log/', '/var/cache/', '/var/lib/'],
      ...[...facts.shown, ...facts.trees.map(({ path }) => path), spec.user.home, `${spec.cwd}/`],
      ...['/run/agentjail/', '/run/lock/', facts.resolvConf ?? '/'],
    ]),
    ...facts.shown.flatMap((path) => ['--ro-bind', facts.root + path, path]),
    ...broughtAlong(spec),
    ...['--bind', spec.user.home, spec.user.home],
    ...facts.trees.flatMap((tree, n) => ['--bind', `${staging}/${String(n)}`, tree.path]),
    ...facts.denied.flatMap(({ path, directory }) => [
      ...['--ro-bind', `${staging}/${directory ? 'empty' : 'none'}`, path],
    ]),
  ]
  return {
    stage: [
      ...['staging', staging],
      ...(options.idmap ? ['idmap', ...idMaps(spec)] : []),
      ...facts.trees.flatMap((tree, n) =>
        stageTree(spec, tree, String(n), options.idmap, inside(tree, facts)),
      ),
    ],
    bwrap,
    files: files(spec, facts, options.trust),
    seal: ['--remount-ro', '/', '--chdir', '/'],
  }
}

/** Where the launch's own perl and what it needs lie, where the root is an image's. */
const broughtDir = '/run/agentjail/launch'

function broughtAlong({ image }: LaunchSpec): string[] {
  if (image === undefined) return []
  return [image.perl, image.loader, ...image.libraries].flatMap((path) => [
    ...['--ro-bind', path, `${broughtDir}/${basename(path)}`],
  ])
}

/** The argv that starts the launch's perl inside: by its own loader, where the root is an image's. */
export function innerPerl({ image }: LaunchSpec, perl: string): string[] {
  if (image === undefined) return [perl]
  const loader = `${broughtDir}/${basename(image.loader)}`
  return [
    loader,
    '--library-path',
    broughtDir,
    `${broughtDir}/${basename(image.perl)}`,
    `-I${broughtDir}`,
  ]
}

/** bwrap makes missing parents itself, but with 0700. Here: every directory above a path, parents first. */
function directories(paths: readonly string[]): string[] {
  const all = new Set<string>()
  for (const path of paths) {
    const parts = path.split('/').slice(1, -1)
    for (let n = 1; n <= parts.length; n++) all.add(`/${parts.slice(0, n).join('/')}`)
  }
  return [...all].sort((a, b) => a.length - b.length).flatMap((path) => ['--dir', path])
}

/** What is mounted below a tree after it, from its root: denied paths and other trees. */
function inside(tree: Tree, { denied, trees }: MountFacts): { readonly path: string }[] {
  const above = `${tree.path}/`
  return [...denied, ...trees].flatMap(({ path }) =>
    tree.mode === 'rw' && path.startsWith(above) ? [{ path: path.slice(above.length) }] : [],
  )
}

function stageTree(
  spec: LaunchSpec,
  tree: Tree,
  n: string,
  idmap: boolean,
  below: readonly { readonly path: string }[],
): string[] {
  const guards = tree.guards
  const gid = String(spec.caller.gid)
  return [
    ...['stage', n, tree.path, tree.mode, idmap && tree.idmap ? 'idmap' : 'plain'],
    ...guards.flatMap(({ make, path }) =>
      make === undefined ? [] : [`make-${make}`, n, path, String(spec.caller.uid), gid],
    ),
    ...ancestorsOf([...guards, ...below]).flatMap((path) => ['pin', n, path]),
    ...guards.flatMap(({ kind, path, directory }) => [
      ...[kind === 'read-only' ? 'ro' : directory ? 'hide-dir' : 'hide-file', n, path],
    ]),
  ]
}

function files(spec: LaunchSpec, facts: MountFacts, trust: Trust | undefined): DataFile[] {
  const list: DataFile[] = []
  const add = (path: string | undefined, data: string | Buffer): void => {
    if (path !== undefined) list.push({ path, data })
  }
  add(facts.resolvConf, spec.resolvConf)
  add(facts.hosts, spec.hosts)
  if (facts.accounts !== undefined) {
    const { name, uid, gid, home } = spec.user
    const { passwd, group } = facts.accounts
    add('/etc/passwd', `${passwd}${name}:x:${String(uid)}:${String(gid)}::${home}:/bin/sh\n`)
    add('/etc/group', `${group}${name}:x:${String(gid)}:\n`)
  }
  add(facts.nsswitch, nsswitch)
  if (trust !== undefined) {
    add(caPath, trust.own)
    add(caBundlePath, trust.merged)
    for (const path of facts.caBundles) add(path, trust.merged)
    if (trust.java !== undefined) for (const path of facts.javaStores) add(path, trust.java)
  }
  return list
}

/** Variables that lead the usual programs to the extra CA; Node adds to its own roots, others replace theirs. */
export const caVariables: ReadonlyMap<string, string> = new Map([
  ['NODE_EXTRA_CA_CERTS', caPath],
  ['SSL_CERT_FILE', caBundlePath],
  ['REQUESTS_CA_BUNDLE', caBundlePath],
  ['CURL_CA_BUNDLE', caBundlePath],
  ['GIT_SSL_CAINFO', caBundlePath],
  ['PIP_CERT', caBundlePath],
  ['CARGO_HTTP_CAINFO', caBundlePath],
  ['AWS_CA_BUNDLE', caBundlePath],
  ['DENO_CERT', caPath],
])

/**
 * Lines of uid_map and gid_map for mount_setattr(2): on disk the caller, inside the service user;
 * all other ids as they are.
 */
function idMaps(spec: LaunchSpec): [string, string] {
  return [idMap(spec.caller.uid, spec.user.uid), idMap(spec.caller.gid, spec.user.gid)]
}

/** 2^32 - 1 is no id. */
const idCount = 4_294_967_295

function idMap(onDisk: number, inside: number): string {
  if (onDisk === inside) return `0 0 ${String(idCount)}\n`
  const low = Math.min(onDisk, inside)
  const high = Math.max(onDisk, inside)
  const ranges: [number, number, number][] = [
    [0, 0, low],
    [onDisk, inside, 1],
    [low + 1, low + 1, high - low - 1],
    [high + 1, high + 1, idCount - high - 1],
  ]
  return ranges
    .filter(([, , count]) => count > 0)
    .map((range) => `${range.join(' ')}\n`)
    .join('')
}
