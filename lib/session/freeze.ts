/**
 * Stops every process of a uid while its firewall rules are being put back.
 * Invariant: what was stopped before (by its shell, by a debugger) stays stopped; a frozen tree can always be killed.
 */
import type { System } from '../system/types.js'

/** Processes may fork while they are counted: looked again until none runs, at most so often. */
const maxRounds = 10

/** Stopped when it resolves; the result lets them go on. */
export async function freeze(
  system: Pick<System, 'kill' | 'processesOf' | 'readFile'>,
  uid: number,
): Promise<() => Promise<void>> {
  const stopped = new Set<number>()
  for (let round = 0; round < maxRounds; round++) {
    const pids = (await system.processesOf(uid)).filter((pid) => !stopped.has(pid))
    const running: number[] = []
    for (const pid of pids) if (!(await isStopped(system, pid))) running.push(pid)
    if (running.length === 0) break
    for (const pid of running) if (system.kill(pid, 'SIGSTOP')) stopped.add(pid)
  }
  return () => {
    for (const pid of stopped) system.kill(pid, 'SIGCONT')
    return Promise.resolve()
  }
}

/** proc(5), stat, field 3: T stopped, t traced, Z and X dead. */
async function isStopped(system: Pick<System, 'readFile'>, pid: number): Promise<boolean> {
  const stat = await system.readFile(`/proc/${pid}/stat`).catch(() => undefined)
  const state = stat?.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3)
  return state === undefined || 'TtZX'.includes(state)
}
