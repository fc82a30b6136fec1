/**
 * What is watched of a jail on Linux, and what happens when it was damaged.
 * Invariant: in `uid` isolation what is missing is restored or the command ended; in `namespace` the host's firewall
 * does not hold the jail, and only the second line, the static deny, is looked at.
 */
import type { NetworkHold } from '../backend/types.js'
import type { NetworkPlan } from '../backend/types.js'
import type { LinuxContext } from './context.js'
import type { HeldCommand } from './held-command.js'
import { withLock } from './lock.js'
import { watch } from './watch.js'
import type { Watch, Watched } from './watch.js'

/** Milliseconds between looks. */
const watchInterval = { uid: 400, namespace: 5_000 } as const

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
    restore: () => withLock(context.config.stateDir, () => hold.restore()),
  }
}

function staticDeny({ backend, config }: LinuxContext): Watched {
  return {
    intact: async () => {
      await backend.ensureStaticDeny(config.uidRange)
      return true
    },
    restore: () => Promise.resolve(),
  }
}
