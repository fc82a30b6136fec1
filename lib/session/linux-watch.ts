/**
 * What is watched of a jail on Linux, and what happens when it was damaged.
 * Invariant: in `uid` isolation what is missing is restored or the command ended; in `namespace` the host's firewall
 * does not hold the jail, and only the second line, the static deny, is looked at.
 */
import type { NetworkHold, NetworkPlan } from '../backend/types.js'
import type { LinuxContext } from './context.js'
import type { HeldCommand } from './held-command.js'
import { withLock } from './lock.js'
import { watch } from './watch.js'
import type { Watch, Watched } from './watch.js'

/** Milliseconds between looks where changes are not heard of. */
const watchInterval = { uid: 400, namespace: 900 } as const

export interface WatchedJail {
  readonly context: LinuxContext
  readonly network: Pick<NetworkPlan, 'isolation' | 'uid'>
  readonly hold: NetworkHold
  readonly command: HeldCommand
  readonly onNotice: (text: string) => void
}

export function watchJail(jail: WatchedJail): Watch {
  const { context, network, command, onNotice } = jail
  return watch(network.isolation === 'uid' ? rulesOf(jail) : staticDeny(context), {
    every: watchInterval[network.isolation],
    // The kernel announces no table that goes with its owner: the guard's.
    ...(network.isolation === 'uid' ? { glanceEvery: watchInterval.uid } : {}),
    onRestored: () => {
      onNotice(
        'the firewall rules were gone (another tool?) and have been restored; meanwhile all was denied',
      )
    },
    onLost: (why) => {
      command.fail(`the firewall rules cannot be restored: ${why}`)
    },
  })
}

function rulesOf({ context, hold }: WatchedJail): Watched {
  return {
    intact: () => hold.intact(),
    ...(hold.glance === undefined ? {} : { glance: hold.glance.bind(hold) }),
    ...(hold.monitor === undefined ? {} : { monitor: hold.monitor.bind(hold) }),
    restore: () => hold.restore((work, isDone) => withLock(context, work, isDone)),
  }
}

function staticDeny(context: LinuxContext): Watched {
  const { backend, config } = context
  return {
    intact: async () => {
      await backend.ensureStaticDeny(config.uidRange, (work) => withLock(context, work))
      return true
    },
    ...(backend.monitorStaticDeny === undefined
      ? {}
      : { monitor: backend.monitorStaticDeny.bind(backend) }),
    restore: () => Promise.resolve(),
  }
}
