/** The battery on Linux. */
import { pieces, type HardeningPiece } from '../launch/types.js'
import { collectDead, makeState, openLinuxContext } from '../session/context.js'
import { probes } from './probes.js'
import type { Battery } from './types.js'
import { verify } from './verify.js'

export const linuxBattery: Battery = {
  size: probes.length,
  pieces,
  run: async (request) => {
    const context = await openLinuxContext()
    await collectDead(context)
    const isolation = request.isolation ?? request.policy.isolation
    await makeState(context, isolation)
    const without = request.without as readonly HardeningPiece[]
    const findings = await verify(context, { ...request, isolation, without })
    return { isolation, findings }
  },
}
