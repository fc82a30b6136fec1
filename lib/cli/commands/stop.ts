/**
 * `agentjail stop NAME`: ends a jail's command, and waits until nothing of the jail is left.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { exitCode, JailError } from '../../errors.js'
import { parseJailName } from '../../plan/names.js'
import { collectDead, openContext } from '../../session/context.js'
import { askWarden } from '../../session/control.js'
import { findJail } from '../../session/reach.js'
import { isStopped } from '../../system/process-identity.js'
import type { CommandIo } from '../io.js'

/** Milliseconds: the command's grace, and what its warden needs after it. */
const patience = 15_000
const pause = 50

/** Exit 0 when it is gone. Throws NAME_UNKNOWN, STATE. */
export async function stopCommand(name: string, io: CommandIo): Promise<number> {
  const context = await openContext()
  const jail = parseJailName(name)
  await collectDead(context)
  const { system, registry } = context
  const { entry, path } = await findJail(context, jail)
  if (await isStopped(system, entry.owner)) process.kill(entry.owner.pid, 'SIGCONT')
  await askWarden(path, jail, { op: 'stop' })
  for (let waited = 0; waited < patience; waited += pause) {
    if ((await registry.read(jail)) === undefined) {
      io.stdout.write(`${jail}: stopped\n`)
      return exitCode.ok
    }
    await delay(pause)
  }
  throw new JailError('STATE', `jail ${jail} does not end`, {
    hint: 'look at it: agentjail status; its user stays denied whatever happens',
  })
}
