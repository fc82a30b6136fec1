/**
 * A further command in a jail that runs on macOS: same user, rules, gate and sandbox profile.
 * Invariant: its end ends nothing else; the jail's end ends every process of the user, and so this one.
 */
import { JailError } from '../../errors.js'
import type { MacLaunchRequest } from '../../launch/macos/launch.js'
import type { Ending, Running } from '../../launch/types.js'
import type { JailName } from '../../plan/names.js'
import { controlPath, converse } from '../control.js'
import type { Registry } from '../registry.js'
import type { SignalRelay } from '../signals.js'

/** A launch as it travels: a Map is not JSON. */
interface Joinable {
  readonly request: Omit<MacLaunchRequest, 'spec'> & {
    readonly spec: Omit<MacLaunchRequest['spec'], 'env'>
  }
  readonly env: readonly (readonly [string, string])[]
}

export function joinable({ spec: { env, ...spec }, ...request }: MacLaunchRequest): Joinable {
  return { request: { ...request, spec }, env: [...env] }
}

export interface JoinParts {
  readonly registry: Registry
  readonly stateDir: string
  readonly launch: (request: MacLaunchRequest) => Promise<Running>
}

/** Asks the jail's warden how, launches, waits. Throws NAME_UNKNOWN, STATE, LAUNCH. */
export async function joinMac(
  { registry, stateDir, launch }: JoinParts,
  jail: JailName,
  command: readonly [string, ...string[]],
  signals: SignalRelay,
): Promise<Ending> {
  if ((await registry.read(jail)) === undefined)
    throw new JailError('NAME_UNKNOWN', `no jail ${jail} is running`, {
      hint: 'see: agentjail status',
    })
  const { result, socket } = await converse(controlPath(stateDir, jail), jail, { op: 'join' })
  const { request, env } = result as Joinable
  try {
    const running = await launch({
      ...request,
      spec: { ...request.spec, env: new Map(env), command },
    })
    // The jail ended: its processes are ended by who ran it; this sees to those that it had not seen yet.
    socket.on('close', () => {
      running.kill()
    })
    if (socket.closed) running.kill()
    signals.attach(running)
    const ending = await running.ended
    socket.removeAllListeners('close')
    return ending
  } finally {
    socket.destroy()
    signals.detach()
  }
}
