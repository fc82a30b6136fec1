/**
 * A process, named for good: a pid alone is reused, within a boot and across boots.
 */
import type { System } from './types.js'

export interface ProcessIdentity {
  readonly pid: number
  /** Clock ticks since boot (proc(5), field 22). */
  readonly start: number
  readonly boot: string
}

/** Of a process that runs; `start` 0, which nothing has, where it has ended already. */
export async function identityOf(
  system: Pick<System, 'processStart' | 'bootId'>,
  pid: number,
): Promise<ProcessIdentity> {
  const start = await system.processStart(pid)
  return { pid, start: start ?? 0, boot: await system.bootId() }
}

/** This process. */
export const ownIdentity = (
  system: Pick<System, 'processStart' | 'bootId'>,
): Promise<ProcessIdentity> => identityOf(system, process.pid)

/** Whether it does nothing until SIGCONT, as after Ctrl-Z (proc(5): state T). False where there is no /proc. */
export async function isStopped(
  system: Pick<System, 'readFile'>,
  { pid }: Pick<ProcessIdentity, 'pid'>,
): Promise<boolean> {
  const text = (await system.readFile(`/proc/${String(pid)}/stat`)) ?? ''
  return text.slice(text.lastIndexOf(')') + 2).startsWith('T')
}

/** Whether that very process still runs. */
export async function isAlive(
  system: Pick<System, 'processStart' | 'bootId'>,
  { pid, start, boot }: ProcessIdentity,
): Promise<boolean> {
  return (await system.bootId()) === boot && (await system.processStart(pid)) === start
}
