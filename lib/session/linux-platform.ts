/**
 * Linux, as commands see it.
 */
import { findAccount, listAccounts, removeAccount } from '../account/linux.js'
import { isTerminalBusy } from '../audit/terminal.js'
import type { LinuxContext } from './context.js'
import { controlPath } from './control.js'
import type { Platform } from './platform.js'
import { Warden } from './warden.js'

/** `context`: asked for only when a part is used, as both know each other. */
export function linuxPlatform(context: () => LinuxContext): Platform {
  return {
    findAccount: (request) => findAccount(context().system, context().config, request),
    listAccounts: () => listAccounts(context().system),
    removeAccount: async ({ name }) => {
      const { system, config, tools } = context()
      const entry = (await listAccounts(system)).find((one) => one.name === name)
      if (entry !== undefined) await removeAccount(system, config, tools, entry)
    },
    isolationFor: (named, policy) => named ?? policy,
    makeWarden: (plan, facts, events, upstreamCa) =>
      new Warden(context(), plan, facts, events, upstreamCa),
    join: async (jail, command, signals) => {
      const { joinJail } = await import('./join.js')
      return await joinJail(context(), jail, command, signals)
    },
    // Mounts and namespaces end with the launch itself.
    cleanLaunch: async ({ name }) => {
      const { system, config } = context()
      await system.removeFile(controlPath(config.stateDir, name))
      const { removeCgroups } = await import('../launch/cgroup.js')
      await removeCgroups(name)
    },
    isTerminalBusy: () => isTerminalBusy(context().system, context().tools.stty),
  }
}
