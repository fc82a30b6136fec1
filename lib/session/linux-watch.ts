/**
 * What is watched of a jail on Linux, and what happens when it was damaged.
 * Invariant: in `uid` isolation what is missing is restored or the command ended; in `namespace` the host's firewall
 * does not hold the jail, and only the second line, the static deny, is looked at.
 */
import type { NetworkHold } from '../backend/types.js'
import type { NetworkPlan } from '../backend/types.js'
import type { LinuxContext } from './context.js'
import { freeze } from './freeze.js'
import type { HeldCommand } from './held-command.js'
import { withLock } from './lock.js'
import type { SignalRelay } from './signals.js'
import { watch } from './watch.js'
import type { Watch, Watched } from './watch.js'

/** Milliseconds between looks. */
const watchInterval = { uid: 400, namespace: 5_000 } as const

export interface WatchedJail {
  readonly context: LinuxContext
  readonly network: Pick<NetworkPlan, 'isolation' | 'uid'>
  readonly hold: NetworkHold
  readonly command: HeldCommand
  readonly signals: SignalRelay
  readonly onNotice: (text: string) => void
}

export function watchJail(jail: WatchedJail): Watch {
  const { context, network, command, onNotice } = jail
  const isFrozen = context.backend.name === 'iptables'
  return watch(network.isolation === 'uid' ? rulesOf(jail, isFrozen) : staticDeny(context), {
    every: watchInterval[network.isolation],
    onRestored: () => {
      onNotice(
        `the firewall rules were gone (another tool?) and have been restored; ${
          isFrozen ? 'the command was stopped meanwhile' : 'meanwhile all was denied'
        }`,
      )
    },
    onLost: (why) => {
      command.fail(`the firewall rules cannot be restored: ${why}`)
    },
  })
}

/** nftables has a deny that others cannot flush; where there is none, nothing of the command runs meanwhile. */
function rulesOf({ context, network, hold, signals }: WatchedJail, isFrozen: boolean): Watched {
  const { system, config } = context
  const stop = async (): Promise<() => Promise<void>> => {
    const release = signals.ownStop()
    const thaw = await freeze(system, network.uid)
    return async () => {
      await thaw()
      release()
    }
  }
  return {
    intact: () => hold.intact(),
    restore: () => withLock(config.stateDir, () => hold.restore()),
    ...(isFrozen ? { freeze: stop } : {}),
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
