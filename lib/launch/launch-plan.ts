/**
 * The whole launch as data: what the first step is told, and what the last.
 * Invariant: pure, and every program is preceded by its own options' end, so that nothing the user
 * names can be read as an option.
 */
import { JailError } from '../errors.js'
import { innerPerl, scratchPaths, type MountPlan } from './mount-plan.js'
import { callsText } from './fence-script.js'
import { blockedSignals, initScript, outerScript } from './step-scripts.js'
import type { Machine } from '../system/syscall-numbers.js'
import type { LaunchTools } from './launch-tools.js'
import type { HardeningPiece, LaunchSpec } from './types.js'

/**
 * Descriptors of the steps. Pipes to the warden, which the first step is started with; then files in memory, which it
 * makes of what it is told: bubblewrap's arguments, the filter, from `firstFile` on one for each data file.
 */
export const fds = {
  ...{ status: 3, control: 4, spec: 5, steps: 6 },
  ...{ args: 30, filter: 31, firstFile: 32 },
} as const

export interface LaunchPlan {
  /** For the first step, on `fds.steps`: fields that end with NUL; a file's bytes follow its length. */
  readonly steps: Buffer
  /** For the last step, on `fds.spec`: the command's directory, variables and words. */
  readonly words: Buffer
}

export interface PlanInput {
  readonly spec: LaunchSpec
  readonly tools: LaunchTools
  readonly machine: Machine
  /** Absent: `basic`. */
  readonly mounts?: MountPlan
  /** Classic BPF; absent: left out. */
  readonly filter?: Buffer
  /** `resource=value,...` by number of <sys/resource.h>. */
  readonly rlimits: string
  /** Files that the outer step writes its pid to. */
  readonly cgroups: readonly string[]
}

export function planLaunch(input: PlanInput): LaunchPlan {
  const { spec, tools, machine, mounts } = input
  const bare = !tools.namespaces
  const out = new Set<HardeningPiece>([...spec.without, ...(bare ? bareWithout : [])])
  const calls = callsText(machine)
  const mask = String(blockedSignals)
  const init = [
    ...[
      ...innerPerl(spec, tools.perl),
      '-e',
      initScript,
      '--',
      String(fds.status),
      calls,
      mask,
      String(fds.control),
    ],
    ...[bare ? '1' : '0', input.filter === undefined ? '-1' : String(fds.filter)],
    ...[input.rlimits === '' ? '-' : input.rlimits],
    ...[mounts === undefined ? '-' : scratchPaths.join(',')],
    ...[String(spec.user.uid), String(spec.user.gid), drops(out)],
    ...[String(fds.spec), out.has('close-descriptors') ? '0' : '1', String(scopes(spec, out))],
  ]
  const box = bare ? [] : mounts === undefined ? plain(tools, out) : bubblewrap(tools)
  const program = [...box, ...init]
  const files = [
    ...(mounts === undefined
      ? []
      : [[fds.args, nulEnded(bubblewrapOptions(mounts, out))] as const]),
    ...(input.filter === undefined ? [] : [[fds.filter, input.filter] as const]),
    ...(mounts?.files ?? []).map(({ data }, n) => [fds.firstFile + n, Buffer.from(data)] as const),
  ]
  const fields = [
    ...input.cgroups.flatMap((file) => ['cgroup', file]),
    ...(spec.netns === undefined || out.has('network') ? [] : ['netns', spec.netns]),
    ...(mounts?.stage ?? []),
    ...['exec', String(program.length), ...program],
  ]
  const steps = Buffer.concat([
    nulEnded([String(spec.user.uid), out.has('pid-namespace') ? '0' : '1']),
    ...files.flatMap(([fd, data]) => [nulEnded(['file', String(fd), String(data.length)]), data]),
    nulEnded(fields),
  ])
  return { steps, words: specBytes(spec) }
}

/** The first step, before it is told anything: its text, and its words. */
export function firstStep(machine: Machine, parentPid: number): [string, ...string[]] {
  return [
    ...([outerScript, String(fds.status), callsText(machine)] as const),
    ...[String(blockedSignals), String(parentPid), String(fds.steps)],
  ]
}

/** What takes a namespace: CAP_SYS_ADMIN makes those. */
const bareWithout = ['pid-namespace', 'ipc-namespace'] as const

/** What the child of PID 1 gives up with its ids. */
function drops(out: ReadonlySet<HardeningPiece>): string {
  const all = ['groups', 'capabilities', 'no-new-privs'] as const
  return all.filter((piece) => !out.has(piece)).join(',') || '-'
}

/** <linux/landlock.h>: LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL. */
const allScopes = 3

/** In a network namespace of its own there is no abstract socket of others, and a joined command must reach the first's. */
function scopes(spec: LaunchSpec, out: ReadonlySet<HardeningPiece>): number {
  const left = out.has('scopes') || out.has('no-new-privs')
  return spec.isolation === 'namespace' || left ? 0 : allScopes
}

function bubblewrap(tools: LaunchTools): string[] {
  if (tools.bwrap === undefined) {
    throw new JailError('TOOL_MISSING', 'bubblewrap is not installed', {
      hint: 'install bubblewrap (apt-get install bubblewrap), or accept less with --isolation basic',
    })
  }
  return [tools.bwrap, '--args', String(fds.args), '--']
}

function bubblewrapOptions(mounts: MountPlan, out: ReadonlySet<HardeningPiece>): string[] {
  return [
    '--die-with-parent',
    ...(out.has('pid-namespace') ? [] : ['--unshare-pid', '--as-pid-1']),
    ...(out.has('ipc-namespace') ? [] : ['--unshare-ipc']),
    ...['--unshare-uts', '--unshare-cgroup-try'],
    ...mounts.bwrap,
    ...mounts.files.flatMap(({ path }, n) => [
      ...['--perms', '0644', '--ro-bind-data', String(fds.firstFile + n), path],
    ]),
    ...mounts.seal,
  ]
}

/** Without bubblewrap: processes and IPC are still apart, files are not. */
function plain(tools: LaunchTools, out: ReadonlySet<HardeningPiece>): string[] {
  return [
    tools.unshare,
    ...(out.has('pid-namespace')
      ? []
      : ['--pid', '--fork', '--kill-child=SIGKILL', '--mount-proc']),
    ...(out.has('ipc-namespace') ? [] : ['--ipc']),
    ...['--uts', '--'],
  ]
}

function specBytes(spec: LaunchSpec): Buffer {
  const variables = [...spec.env].map(([name, value]) => `${name}=${value}`)
  return nulEnded([spec.cwd, String(variables.length), ...variables, ...spec.command])
}

function nulEnded(fields: readonly string[]): Buffer {
  const bad = fields.find((field) => field.includes('\0'))
  if (bad !== undefined) {
    throw new JailError('USAGE', 'an argument, variable or path contains a NUL character', {
      hint: 'no program can be given one: take it out',
    })
  }
  return Buffer.from(fields.map((field) => `${field}\0`).join(''))
}
