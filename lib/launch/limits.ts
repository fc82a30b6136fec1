/**
 * The policy's limits as resource limits of the command (prlimit(2)), and the words for those that PID 1 saw reached.
 * Invariant: core dumps are off whatever the policy says.
 */
import type { Limits } from '../policy/types.js'
import { formatSize } from '../policy/units.js'
import { defaultTmp } from './mount-plan.js'

/** <asm-generic/resource.h> */
const resource = { data: 2, core: 4, nproc: 6, nofile: 7 } as const

/**
 * `resource=value,...`. Memory by RLIMIT_DATA: RLIMIT_AS would stop programs that only reserve addresses.
 * @param grouped a control group holds processes and memory.
 */
export function rlimits(limits: Limits, grouped = false): string {
  const list: [number, number | undefined][] = [
    [resource.core, 0],
    [resource.nproc, grouped ? undefined : limits.pids],
    [resource.nofile, limits.openFiles],
    [resource.data, grouped ? undefined : limits.memory],
  ]
  return list
    .flatMap(([number, value]) =>
      value === undefined ? [] : [`${String(number)}=${String(Math.floor(value))}`],
    )
    .join(',')
}

/** @param full see `Status`. */
export function fullLines(full: ReadonlySet<string>, { tmp, openFiles }: Limits): string[] {
  return [...full].map((what) => {
    if (what === 'files')
      return `limits.openFiles: a process had all of its ${String(openFiles)} files open`
    const size = formatSize(tmp ?? defaultTmp)
    return `limits.tmp: ${what} was full, at ${size}${tmp === undefined ? ' (the policy sets no other)' : ''}`
  })
}
