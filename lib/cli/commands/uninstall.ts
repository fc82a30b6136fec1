/**
 * `agentjail uninstall`: takes away everything agentjail put on this machine, packages aside.
 */
import { dirname } from 'node:path'
import { JailError } from '../../errors.js'
import { withoutJail } from '../../session/claim.js'
import { makeState } from '../../session/context.js'
import { withLock } from '../../session/lock.js'
import { openRegistry } from '../../session/registry.js'
import { openUpkeep } from '../../session/upkeep.js'
import { loadConfig } from '../../setup/config.js'
import { isAlive } from '../../system/process-identity.js'
import type { System } from '../../system/types.js'
import type { CommandIo } from '../io.js'

export interface UninstallArgs {
  /** Logs and a changed configuration too. */
  readonly purge: boolean
}

/** Exit 0: nothing is left but what it says. Throws `JailError`: NOT_ROOT, STATE, CLEANUP_PARTIAL. */
export async function uninstallCommand(args: UninstallArgs, io: CommandIo): Promise<number> {
  if (process.geteuid?.() !== 0) {
    throw new JailError('NOT_ROOT', 'uninstall changes the system and needs root', {
      hint: 'sudo agentjail uninstall',
    })
  }
  const config = await loadConfig()
  const { system, uninstall } = await openUpkeep(config)
  const say = (line: string): unknown => io.stdout.write(`${line}\n`)
  const remove = async (): Promise<void> => {
    await refuseWhileHeld(system, config.stateDir)
    await uninstall({
      purge: args.purge,
      say,
      claimed: async (account, work) => {
        // A restart cleared it, say.
        await makeState({ system, config })
        const registry = openRegistry(system, config.stateDir)
        return await withoutJail({ system, registry }, ['agentjail', 'uninstall'], account, work)
      },
    })
  }
  // Where not even its parent is, nothing was ever set up, and the lock cannot be there.
  if ((await system.lstat(dirname(config.stateDir))) === undefined) await remove()
  else await withLock({ system, config }, remove)
  return 0
}

/** A jail that is just starting has no process of its uid yet. */
async function refuseWhileHeld(system: System, stateDir: string): Promise<void> {
  for (const { name, owner } of await openRegistry(system, stateDir).list()) {
    if (await isAlive(system, owner)) {
      throw new JailError('STATE', `jail ${name} is running (pid ${String(owner.pid)})`, {
        hint: 'end it first; see: agentjail status',
      })
    }
  }
}
