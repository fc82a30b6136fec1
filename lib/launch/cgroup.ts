/**
 * Limits over all processes of a jail together: control groups, version 2 or the named controllers of 1.
 * Invariant: a group is made empty before the launch and removed after it; what it counted is read first.
 * Where groups cannot be made, the caller falls back to resource limits of each process.
 */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Limits } from '../policy/types.js'
import { formatSize } from '../policy/units.js'

export interface Cgroup {
  /** Files to write a pid to. */
  readonly join: readonly string[]
  /** One line for each limit that was hit since `prepareCgroup`. */
  hit(): readonly string[]
  remove(): Promise<void>
}

/** The processes of agentjail itself that count too: bwrap and PID 1. */
const ownProcesses = 2
/** Microseconds: the kernel's default period. */
const cpuPeriod = 100_000
const parent = 'agentjail'

interface Knob {
  readonly controller: 'pids' | 'memory' | 'cpu'
  /** file and value, version 2 and version 1; a file that is not there is left out when `optional`. */
  readonly v2: readonly (readonly [file: string, value: string, optional?: true])[]
  readonly v1: readonly (readonly [file: string, value: string, optional?: true])[]
  /** The file and key that count how often it was hit. */
  readonly count?: readonly [file: Readonly<Record<'v1' | 'v2', string>>, key: string]
  readonly message?: (times: number) => string
}

/**
 * @param root where cgroups are mounted.
 * @param kept below `root`: a group that others remove.
 * @returns undefined where no limit needs a group.
 * @throws an errno error where a group cannot be made; nothing is left then.
 */
export function prepareCgroup(
  jail: string,
  limits: Limits,
  root = '/sys/fs/cgroup',
  kept?: string,
): Cgroup | undefined {
  const wanted = knobs(limits)
  if (wanted.length === 0) return undefined
  const version = existsSync(`${root}/cgroup.controllers`) ? 'v2' : 'v1'
  if (version === 'v2') enableControllers(root, wanted)
  const dirOf = (controller: string): string =>
    version === 'v2' ? `${root}/${parent}/${jail}` : `${root}/${controller}/${parent}/${jail}`
  const dirs = [...new Set(wanted.map(({ controller }) => dirOf(controller)))]
  try {
    for (const dir of dirs) makeIn(root, dir)
    for (const knob of wanted) {
      for (const [file, value, optional] of knob[version]) {
        const path = `${dirOf(knob.controller)}/${file}`
        if (optional !== true || existsSync(path)) writeFileSync(path, value)
      }
    }
  } catch (error) {
    for (const dir of dirs) if (dir !== `${root}/${kept ?? ''}`) removeQuietly(dir)
    throw error
  }
  const read = (): number[] =>
    wanted.map(({ controller, count }) =>
      count === undefined ? 0 : readCount(`${dirOf(controller)}/${count[0][version]}`, count[1]),
    )
  const before = read()
  return {
    join: dirs.map((dir) => `${dir}/cgroup.procs`),
    hit: () =>
      read().flatMap((now, n) => {
        const times = now - (before[n] ?? 0)
        const text = times > 0 ? wanted[n]?.message?.(times) : undefined
        return text === undefined ? [] : [text]
      }),
    remove: async () => {
      for (const dir of dirs.filter((path) => path !== `${root}/${kept ?? ''}`)) {
        await removeSoon(dir)
        // The last jail takes the directory above along; with others in it this fails, as it should.
        removeQuietly(dirname(dir))
      }
    },
  }
}

/**
 * The group by which the firewall knows a jail's sockets; with version 2, its limits lie in the same one. Whoever holds
 * the rules removes it, after them: one that is made anew is another to the kernel.
 * @param path below `root`, e.g. `unified/agentjail/NAME`.
 * @returns the file to write a pid to.
 * @throws an errno error where it cannot be made.
 */
export function ensureSocketGroup(path: string, root = '/sys/fs/cgroup'): string {
  mkdirSync(`${root}/${path}`, { recursive: true })
  return `${root}/${path}/cgroup.procs`
}

/** Removes a jail's groups, of whatever kind; one that still has processes stays. */
export async function removeCgroups(jail: string, root = '/sys/fs/cgroup'): Promise<void> {
  for (const under of ['', '/unified', '/pids', '/memory', '/cpu']) {
    await removeSoon(`${root}${under}/${parent}/${jail}`)
    removeQuietly(`${root}${under}/${parent}`)
  }
}

function knobs({ pids, memory, cpu }: Limits): Knob[] {
  const list: Knob[] = []
  if (pids !== undefined) {
    const max = String(pids + ownProcesses)
    list.push({
      controller: 'pids',
      v2: [['pids.max', max]],
      v1: [['pids.max', max]],
      count: [{ v1: 'pids.events', v2: 'pids.events' }, 'max'],
      message: (times) =>
        `limits.pids: ${String(times)} new ${times === 1 ? 'process or thread was' : 'processes or threads were'} refused, at ${String(pids)}`,
    })
  }
  if (memory !== undefined) {
    const max = String(Math.floor(memory))
    list.push({
      controller: 'memory',
      v2: [
        ['memory.max', max],
        ['memory.swap.max', '0', true],
      ],
      v1: [
        ['memory.limit_in_bytes', max],
        ['memory.memsw.limit_in_bytes', max, true],
      ],
      count: [{ v1: 'memory.oom_control', v2: 'memory.events' }, 'oom_kill'],
      message: (times) =>
        `limits.memory: ${String(times)} ${times === 1 ? 'process was' : 'processes were'} killed, at ${formatSize(memory)}`,
    })
  }
  if (cpu !== undefined) {
    const quota = String(Math.max(1000, Math.round(cpu * cpuPeriod)))
    list.push({
      controller: 'cpu',
      v2: [['cpu.max', `${quota} ${String(cpuPeriod)}`]],
      v1: [
        ['cpu.cfs_period_us', String(cpuPeriod)],
        ['cpu.cfs_quota_us', quota],
      ],
      count: [{ v1: 'cpu.stat', v2: 'cpu.stat' }, 'nr_throttled'],
      message: (times) =>
        `limits.cpu: held back in ${String(times)} ${times === 1 ? 'period' : 'periods'} of ${String(cpuPeriod / 1000)} ms, at ${String(cpu)} CPUs`,
    })
  }
  return list
}

/** Version 2: a controller must be handed down from each group above. */
function enableControllers(root: string, wanted: readonly Knob[]): void {
  const text = wanted.map(({ controller }) => `+${controller}`).join(' ')
  const above = `${root}/${parent}`
  writeFileSync(`${root}/cgroup.subtree_control`, text)
  mkdirSync(above, { recursive: true })
  writeFileSync(`${above}/cgroup.subtree_control`, text)
}

/** Only inside a controller that is mounted: a plain directory in its stead would limit nothing. */
function makeIn(root: string, dir: string): void {
  const controller = dir.slice(0, dir.indexOf(`/${parent}/`))
  if (!existsSync(`${controller}/cgroup.procs`)) {
    throw new Error(`no control groups at ${controller === root ? root : controller}`)
  }
  mkdirSync(dir, { recursive: true })
}

function readCount(path: string, key: string): number {
  try {
    const line = readFileSync(path, 'utf8')
      .split('\n')
      .find((text) => text.startsWith(`${key} `))
    return Number(line?.slice(key.length + 1) ?? 0)
  } catch {
    return 0
  }
}

/** The kernel lets go of a group a moment after its last process is gone. */
async function removeSoon(dir: string): Promise<void> {
  for (let n = 0; n < 1000; n++) {
    if (removeQuietly(dir)) return
    await sleep(3)
  }
}

function removeQuietly(dir: string): boolean {
  try {
    rmdirSync(dir)
    return true
  } catch {
    return !existsSync(dir)
  }
}
