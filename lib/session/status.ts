/**
 * What `agentjail status` shows: each warden is asked; where none answers, the registry's word.
 */
import { errorMessage } from '../errors.js'
import type { JailStatus } from '../status/status.js'
import { isAlive, isStopped } from '../system/process-identity.js'
import { openContext } from './context.js'
import { askWarden, controlPath } from './control.js'
import { goOn, stoppedText } from './reach.js'

export async function readStatus(): Promise<readonly JailStatus[]> {
  const { system, registry, config } = await openContext()
  return await Promise.all(
    (await registry.list()).map(async (entry): Promise<JailStatus> => {
      const { name, policy, user, uid, isolation, since, command } = entry
      const unanswered = {
        name,
        policy,
        user,
        uid,
        isolation,
        since,
        command,
        allowed: 0,
        denied: 0,
        up: 0,
        down: 0,
        pins: 0,
      }
      if (!(await isAlive(system, entry.owner))) {
        return {
          ...unanswered,
          phase: 'dead',
          warnings: ['its warden is dead: agentjail gc clears it'],
        }
      }
      if (await isStopped(system, entry.owner)) {
        const warnings = [`it ${stoppedText}; to go on: ${goOn(entry)}`]
        return { ...unanswered, phase: entry.phase, warnings }
      }
      try {
        return (await askWarden(controlPath(config.stateDir, name), name, {
          op: 'status',
        })) as JailStatus
      } catch (error) {
        return { ...unanswered, phase: entry.phase, warnings: [errorMessage(error)] }
      }
    }),
  )
}
