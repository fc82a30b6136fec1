/**
 * A further command in a jail that runs: same user, same network, same gate; its own PID namespace.
 * Invariant: its end ends nothing else; the jail's end, however it comes, ends it.
 */
import { launchTools } from '../launch/launch-tools.js'
import { launch } from '../launch/launch.js'
import type { Ending, LaunchSpec } from '../launch/types.js'
import type { JailName } from '../plan/names.js'
import type { LinuxContext } from './context.js'
import { converse } from './control.js'
import { reachJail } from './reach.js'
import type { SignalRelay } from './signals.js'

/** A launch spec as it travels: a Map is not JSON. */
export interface Joinable {
  readonly spec: Omit<LaunchSpec, 'env'>
  readonly env: readonly (readonly [string, string])[]
}

export function joinable(launched: LaunchSpec): Joinable {
  const { env, ...spec } = launched
  return { spec, env: [...env] }
}

/** Asks the jail's warden how, launches, waits. Throws NAME_UNKNOWN, STATE, LAUNCH. */
export async function joinJail(
  context: LinuxContext,
  jail: JailName,
  command: readonly [string, ...string[]],
  signals: SignalRelay,
): Promise<Ending> {
  const { path } = await reachJail(context, jail)
  const { result, socket } = await converse(path, jail, { op: 'join' })
  const { spec, env } = result as Joinable
  const over = new Promise<void>((resolve) => {
    socket.on('close', () => {
      resolve()
    })
  })
  try {
    const running = await launch(
      { ...spec, env: new Map(env), command, joins: true },
      launchTools(context),
    )
    void over.then(() => {
      running.kill()
    })
    // It may have ended during the launch, before anybody listened.
    if (socket.closed) running.kill()
    signals.attach(running)
    return await running.ended
  } finally {
    socket.destroy()
    signals.detach()
  }
}
