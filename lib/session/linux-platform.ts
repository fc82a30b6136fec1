/**
 * Linux, as commands see it.
 */
import { findAccount, listAccounts, removeAccount } from '../account/linux.js'
import { entriesWith } from '../system/passwd.js'
import { isTerminalBusy } from '../audit/terminal.js'
import { JailError } from '../errors.js'
import { findTools } from '../system/tools.js'
import { caDir } from '../launch/launch-tools.js'
import type { LinuxContext } from './context.js'
import { controlPath } from './control.js'
import type { Platform } from './platform.js'
import { Warden } from './warden.js'

/** `context`: asked for only when a part is used, as both know each other. */
export function linuxPlatform(context: () => LinuxContext): Platform {
  return {
    forbidCoreDumps: async () => {
      if (await context().server?.forbidCoreDumps()) return
      const prlimit = findTools(['prlimit']).get('prlimit')
      // 1, not 0: the kernel hands a dump to a collector (core_pattern with a pipe) whatever the limit, but for this one.
      for (const limit of ['1:1', '0:0']) {
        const argv = [prlimit, `--pid=${process.pid}`, `--core=${limit}`] as const
        if ((await context().system.run(argv)).code === 0) return
      }
      throw new JailError('LAUNCH', 'core dumps of agentjail itself cannot be switched off', {
        hint: 'keys would be in them: start it with ulimit -c 0',
      })
    },
    homeOf: async (uid) => {
      const text = (await context().system.readFile('/etc/passwd')) ?? ''
      return entriesWith(text, uid).find((account) => account.uid === uid)?.home
    },
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
      await system.removeDir(`${caDir(config)}/${name}`)
      const { removeCgroups } = await import('../launch/cgroup.js')
      await removeCgroups(name)
    },
    isTerminalBusy: () => isTerminalBusy(context().system, context().tools.stty),
  }
}
