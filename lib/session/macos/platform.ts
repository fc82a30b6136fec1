/**
 * macOS, as commands see it: pf, dscl, launchctl, put together.
 * Invariant: `isolation` is always `uid`; who named another is told.
 */
import {
  findMacAccount,
  listMacAccounts,
  macHomeOf,
  removeMacAccount,
} from '../../account/macos.js'
import type { AuditLog } from '../../audit/log.js'
import { isCanonical } from '../../audit/terminal.js'
import { takeBackShares } from '../../launch/macos/workspace.js'
import type { Running } from '../../launch/types.js'
import type { Facts, Plan } from '../../plan/types.js'
import type { Config } from '../../setup/config.js'
import { controlPath } from '../control.js'
import { openJailLog } from '../jail-log.js'
import { withLock } from '../lock.js'
import type { JailWarden, Platform, WardenEvents } from '../platform.js'
import type { SignalRelay } from '../signals.js'
import { caPaths, sharePath, type MacParts } from './parts.js'
import { MacWarden } from './warden.js'

/** `openGate` and `launch` are where a test leads to a modelled Mac. */
export interface MacPlatformParts extends Pick<
  MacParts,
  'system' | 'registry' | 'backend' | 'openGate' | 'launch'
> {
  readonly config: Config
}

export function macPlatform(parts: MacPlatformParts): Platform {
  const { system, config } = parts
  return {
    // launchd's default is none, and macOS has no program that changes the limit of a running process.
    forbidCoreDumps: () => Promise.resolve(),
    homeOf: (uid) => macHomeOf(system, uid),
    findAccount: (request) => findMacAccount(system, config, request),
    listAccounts: () => listMacAccounts(system),
    removeAccount: (account) => removeMacAccount(system, config, account),
    isolationFor: (named, _policy, note) => {
      if (named !== undefined && named !== 'uid')
        note(`macOS has no isolation ${named}: uid is used, held by pf`)
      return 'uid'
    },
    makeWarden: (plan, facts, events) => macWarden(parts, plan, facts, events),
    join: async (jail, command, signals) => {
      const { joinMac } = await import('./join.js')
      const { registry, launch } = parts
      return await joinMac({ registry, stateDir: config.stateDir, launch }, jail, command, signals)
    },
    cleanLaunch: async ({ name }) => {
      await takeBackShares(system, sharePath(config.stateDir, name))
      for (const path of Object.values(caPaths(config.stateDir, name)))
        await system.removeFile(path)
      await system.removeFile(controlPath(config.stateDir, name))
    },
    isTerminalBusy: async () => {
      const argv = ['/bin/stty', '-f', '/dev/tty', '-a'] as const
      const { code, stdout } = await system.run(argv, { timeout: 1_000, onTerminal: true })
      return code !== 0 || !isCanonical(stdout)
    },
  }
}

function macWarden(
  parts: MacPlatformParts,
  plan: Plan,
  facts: Facts,
  events: WardenEvents,
): JailWarden {
  const { config } = parts
  let audit: AuditLog | undefined
  const openAudit = async (): Promise<AuditLog> => {
    audit = await openJailLog(config, plan, events.onNotice)
    return audit
  }
  return {
    run: async (signals: SignalRelay) => {
      const lock = <T>(work: () => Promise<T>): Promise<T> => withLock(parts, work)
      const onRunning = (running: Running): void => {
        signals.attach(running)
      }
      const warden = new MacWarden({ ...parts, settings: config, openAudit, lock }, plan, facts, {
        ...events,
        onRunning,
      })
      try {
        return await warden.run()
      } finally {
        signals.detach()
      }
    },
    get dropped() {
      return audit?.dropped ?? 0
    },
  }
}
