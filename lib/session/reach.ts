/**
 * A running jail, before its warden is asked for anything.
 * Invariant: whoever cannot answer is not waited for.
 */
import { JailError } from '../errors.js'
import type { JailName } from '../plan/names.js'
import { isStopped } from '../system/process-identity.js'
import type { Context } from './context.js'
import { controlPath } from './control.js'
import type { RegistryEntry } from './registry.js'

export interface Reached {
  readonly entry: RegistryEntry
  /** Of its control socket. */
  readonly path: string
}

type Reaching = Pick<Context, 'system' | 'registry' | 'config'>

/** Throws NAME_UNKNOWN where it does not run, STATE where it is stopped. */
export async function reachJail(context: Reaching, jail: JailName): Promise<Reached> {
  const reached = await findJail(context, jail)
  if (await isStopped(context.system, reached.entry.owner)) {
    throw new JailError('STATE', `jail ${jail} ${stoppedText}`, { hint: goOn(reached.entry) })
  }
  return reached
}

/** As `reachJail`, and it may be stopped. */
export async function findJail({ registry, config }: Reaching, jail: JailName): Promise<Reached> {
  const entry = await registry.read(jail)
  if (entry === undefined) {
    throw new JailError('NAME_UNKNOWN', `no jail ${jail} is running`, {
      hint: 'see: agentjail status',
    })
  }
  return { entry, path: controlPath(config.stateDir, jail) }
}

export const stoppedText = 'is stopped, as by Ctrl-Z'

/** What ends that. */
export const goOn = ({ owner }: Pick<RegistryEntry, 'owner'>): string =>
  `fg in its shell, or: sudo kill -CONT ${String(owner.pid)}`
