/**
 * The processes of a jail's uid: none before it starts, none after it ended.
 */
import { JailError } from '../errors.js'
import type { Plan } from '../plan/types.js'
import type { System } from '../system/types.js'

/** Processes that run already would share the jail. Throws ACCOUNT. */
export async function refuseShared(system: System, account: Plan['account']): Promise<void> {
  const [first] = await system.processesOf(account.uid)
  if (first === undefined) return
  throw new JailError(
    'ACCOUNT',
    `user ${account.name} has processes already (first: ${String(first)})`,
    { hint: 'end them first: they would share the jail' },
  )
}

/** SIGKILL to every process of the uid until none is left. Throws when some stay. */
export async function endProcesses(system: System, uid: number): Promise<void> {
  const deadline = system.monotonic() + 5_000
  for (;;) {
    const alive = await system.processesOf(uid)
    if (alive.length === 0) return
    for (const pid of alive) system.kill(pid, 'SIGKILL')
    if (system.monotonic() > deadline) {
      throw new Error(
        `${alive.length} processes of uid ${uid} do not end (first: ${alive[0] ?? ''}); the rules stay`,
      )
    }
    await system.sleep(10)
  }
}
