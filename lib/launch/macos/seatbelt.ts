/**
 * The seatbelt profile of a jailed command: what pf cannot tell apart by user, and the policy's files. Pure.
 * Invariant: the network is closed but for the gate and the ports of kernel grants; names, files and services that
 * are not listed stay closed; later rules of a profile win, so each section goes from general to particular.
 *
 * Under any profile macOS refuses to execute setuid and setgid programs, whatever the profile says, so that none
 * of them can open a socket as another user.
 */
import { JailError } from '../../errors.js'
import type { FsRules, PortRange } from '../../policy/types.js'
import { gitReadOnly } from '../guard-names.js'

export interface SeatbeltSpec {
  /** Absolute; links in them already resolved, but for the system's own /var, /tmp and /etc. */
  readonly home: string
  readonly cwd: string
  readonly fs: FsRules
  /** Never writable: agentjail itself, its policies and state. */
  readonly protect: readonly string[]
  /** Never readable: agentjail's state and logs. */
  readonly hidden: readonly string[]
  /** Directories that hold the command and its runtime, where they are not the system's. */
  readonly programs: readonly string[]
  readonly proxy?: number
  readonly connect: readonly number[]
  readonly listen: readonly number[]
  /** Ports of grants that go through the kernel or are taken over: pf decides about addresses. */
  readonly tcp: readonly PortRange[]
  readonly udp: readonly PortRange[]
  /** The system's resolver stays reachable: the price of running without proxy variables. */
  readonly systemResolver: boolean
  /** Says nothing of the network; only `verify --without` does that. */
  readonly openNetwork?: boolean
}

/** Services that command-line programs need; every other one (resolver, launcher of applications, ...) is closed. */
const services = [
  'com.apple.system.opendirectoryd.libinfo',
  'com.apple.system.opendirectoryd.membership',
  'com.apple.system.notification_center',
  'com.apple.system.logger',
  'com.apple.logd',
  'com.apple.diagnosticd',
  'com.apple.bsd.dirhelper',
  'com.apple.cfprefsd.agent',
  'com.apple.cfprefsd.daemon',
  'com.apple.trustd.agent',
  'com.apple.SystemConfiguration.configd',
  'com.apple.PowerManagement.control',
  'com.apple.FontObjectsServer',
  'com.apple.fonts',
] as const

/** They act for their caller under another user, or start programs outside the jail. */
const programs = [
  ...['/usr/bin/sudo', '/usr/bin/su', '/usr/bin/login', '/usr/bin/newgrp', '/usr/bin/at'],
  ...['/usr/bin/crontab', '/usr/bin/open', '/usr/bin/osascript', '/bin/launchctl'],
  ...['/usr/sbin/traceroute', '/usr/sbin/traceroute6', '/usr/bin/ssh-add'],
] as const

const devices = [
  'null',
  'zero',
  'random',
  'urandom',
  'tty',
  'ptmx',
  'stdin',
  'stdout',
  'stderr',
  'dtracehelper',
] as const

/** Kept closed to other accounts' eyes: homes, keychains, logs, other volumes. */
const closedToRead = [
  '/Users',
  '/Volumes',
  '/Library/Keychains',
  '/private/var/root',
  '/private/var/log',
  '/private/var/db/dslocal',
  '/private/var/agentjail',
  '/private/tmp',
  '/private/var/tmp',
  '/private/var/folders',
] as const

/** More single ports than this are written as any port of the protocol: pf holds them all the same. */
const maxPorts = 64

export function seatbeltProfile(spec: SeatbeltSpec): string {
  return [
    '(version 1)',
    '(allow default)',
    ...processRules(),
    ...serviceRules(spec),
    ...(spec.openNetwork === true ? [] : networkRules(spec)),
    ...fileRules(spec),
    '',
  ].join('\n')
}

function processRules(): string[] {
  return [
    rule('deny', 'signal'),
    rule('allow', 'signal', '(target same-sandbox)'),
    rule('deny', 'process-info*'),
    rule('allow', 'process-info*', '(target same-sandbox)'),
    rule('deny', 'mach-priv-task-port'),
    rule('allow', 'mach-priv-task-port', '(target same-sandbox)'),
    rule('deny', 'process-exec*', ...programs.map((path) => filter('literal', path))),
    rule('deny', 'job-creation'),
    rule('deny', 'system-privilege'),
  ]
}

function serviceRules({ systemResolver }: SeatbeltSpec): string[] {
  const names = [...services, ...(systemResolver ? ['com.apple.dnssd.service'] : [])]
  return [
    rule('deny', 'mach-lookup'),
    rule('allow', 'mach-lookup', ...names.map((name) => filter('global-name', name))),
    rule('deny', 'appleevent-send'),
    rule('deny', 'lsopen'),
  ]
}

function networkRules(spec: SeatbeltSpec): string[] {
  const own = [spec.home, spec.cwd].map((path) => filter('subpath', realSystemPath(path)))
  const localPorts = [...(spec.proxy === undefined ? [] : [spec.proxy]), ...spec.connect]
  const outbound = [
    ...localPorts.map((port) => filter('remote tcp', `localhost:${String(port)}`)),
    ...portFilters('tcp', spec.tcp),
    ...portFilters('udp', spec.udp),
  ]
  const listen = spec.listen.map((port) => filter('local tcp', `localhost:${String(port)}`))
  return [
    // Also raw and ICMP sockets, and every Unix socket that is not named below.
    rule('deny', 'network*'),
    ...(outbound.length === 0 ? [] : [rule('allow', 'network-outbound', ...outbound)]),
    // A datagram socket may bind before it sends; pf lets nothing in but answers.
    ...(spec.udp.length === 0 ? [] : [rule('allow', 'network-bind', filter('local udp', '*:*'))]),
    ...(listen.length === 0
      ? []
      : [rule('allow', 'network-bind', ...listen), rule('allow', 'network-inbound', ...listen)]),
    rule('allow', 'network-outbound', ...own),
    rule('allow', 'network-bind', ...own),
    rule('allow', 'network-inbound', ...own),
    rule(
      spec.systemResolver ? 'allow' : 'deny',
      'network-outbound',
      filter('literal', '/private/var/run/mDNSResponder'),
      filter('literal', '/var/run/mDNSResponder'),
    ),
  ]
}

function fileRules(spec: SeatbeltSpec): string[] {
  // The working directory is the workspace, unless the policy names what may be written.
  const writable = spec.fs.write.length === 0 ? [spec.cwd] : spec.fs.write
  const write = [spec.home, ...writable].map((path) => resolve(path, spec))
  const read = [...write, spec.cwd, ...spec.programs, ...spec.fs.read].map((path) =>
    resolve(path, spec),
  )
  const deny = spec.fs.deny.map((path) => resolve(path, spec))
  const workspace = [...new Set([resolve(spec.cwd, spec), ...write])]
  const parents = [...new Set(read.flatMap(parentsOf))]
  return [
    rule('deny', 'file-read*', ...subpaths(closedToRead)),
    rule('allow', 'file-read-metadata', ...parents.map((path) => filter('literal', path))),
    rule('allow', 'file-read*', ...subpaths(read)),
    rule('deny', 'file-write*'),
    rule(
      'allow',
      'file-write*',
      ...devices.map((name) => filter('literal', `/dev/${name}`)),
      '(regex #"^/dev/ttys[0-9]+$")',
    ),
    rule('allow', 'file-write*', ...subpaths(write)),
    // The workspace is writable where the policy says so; what other programs run from it never is.
    rule('deny', 'file-write*', ...workspace.flatMap(guardFilters)),
    rule('deny', 'file-read*', ...workspace.flatMap(keyFilters)),
    rule('deny', 'file-write*', ...workspace.flatMap(keyFilters)),
    ...(deny.length === 0
      ? []
      : [
          rule('deny', 'file-read*', ...subpaths(deny)),
          rule('deny', 'file-write*', ...subpaths(deny)),
        ]),
    ...(spec.protect.length === 0 ? [] : [rule('deny', 'file-write*', ...subpaths(spec.protect))]),
    ...(spec.hidden.length === 0 ? [] : [rule('deny', 'file-read*', ...subpaths(spec.hidden))]),
    // A file made setuid by the command would be one for whoever runs it.
    rule('deny', 'file-write-setugid'),
  ]
}

/** Version control, editors, shells: programs run what stands in these. */
function guardFilters(top: string): string[] {
  const base = escapeRegex(top)
  const names =
    '(bashrc|bash_profile|profile|zshrc|zshenv|zprofile|envrc|gitconfig|gitmodules|npmrc|mcp\\.json)'
  return [
    `(regex #"^${base}/(.*/)?\\.git/(${gitReadOnly.map(escapeRegex).join('|')})(/|$)")`,
    `(regex #"^${base}/(.*/)?\\.(vscode|idea|husky|agentjail)(/|$)")`,
    `(regex #"^${base}/(.*/)?\\.${names}$")`,
  ]
}

function keyFilters(top: string): string[] {
  const base = escapeRegex(top)
  return [
    `(regex #"^${base}/(.*/)?\\.(ssh|aws|gnupg|kube|docker|azure|netrc|git-credentials)(/|$)")`,
    `(regex #"^${base}/(.*/)?\\.env(\\.(local|production|development|staging|test))?$")`,
  ]
}

function portFilters(proto: 'tcp' | 'udp', ranges: readonly PortRange[]): string[] {
  const count = ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0)
  if (count > maxPorts) return [filter(`remote ${proto}`, '*:*')]
  const ports = ranges.flatMap(({ first, last }) =>
    Array.from({ length: last - first + 1 }, (_, index) => first + index),
  )
  return [...new Set(ports)].map((port) => filter(`remote ${proto}`, `*:${String(port)}`))
}

function subpaths(paths: readonly string[]): string[] {
  return [...new Set(paths)].map((path) => filter('subpath', realSystemPath(path)))
}

function rule(verdict: 'allow' | 'deny', operation: string, ...filters: readonly string[]): string {
  return `(${[verdict, operation, ...filters].join(' ')})`
}

function filter(kind: string, value: string): string {
  return `(${kind} ${quote(value)})`
}

/** The only way from a value to profile text. */
function quote(value: string): string {
  if (/[\u0000-\u001f\u007f]/.test(value))
    throw new JailError(
      'LAUNCH',
      `a path with control characters cannot be jailed: ${JSON.stringify(value)}`,
      {
        hint: 'rename the directory',
      },
    )
  return `"${value.replace(/[\\"]/g, '\\$&')}"`
}

/** For use within a regular expression literal of the profile language. */
function escapeRegex(text: string): string {
  const path = quote(realSystemPath(text)).slice(1, -1)
  if (path.includes('"'))
    throw new JailError('LAUNCH', `a path with quotation marks cannot be jailed: ${text}`, {
      hint: 'rename the directory',
    })
  return path.replace(/[.*+?^${}()|[\]]/g, '\\$&')
}

/** `~/x` below the service user's home, `./x` and `x` below the working directory. */
function resolve(path: string, spec: SeatbeltSpec): string {
  if (path === '~' || path.startsWith('~/')) return realSystemPath(spec.home + path.slice(1))
  if (path.startsWith('/')) return realSystemPath(path)
  return realSystemPath(`${spec.cwd}/${path.replace(/^\.\/?/, '')}`.replace(/\/+$/, ''))
}

/** Profiles see paths without links: macOS keeps these three below /private. */
function realSystemPath(path: string): string {
  return /^\/(var|tmp|etc)(\/|$)/.test(path) ? `/private${path}` : path
}

/** Programs look at each directory on the way to their file. */
function parentsOf(path: string): string[] {
  const parts = path.split('/').slice(1, -1)
  return ['/', ...parts.map((_, index) => `/${parts.slice(0, index + 1).join('/')}`)]
}
