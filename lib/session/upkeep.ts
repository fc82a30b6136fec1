/**
 * What `doctor` and `uninstall` do on this platform: chosen here, once.
 */
import type { Check } from '../doctor/types.js'
import type { Config } from '../setup/config.js'
import { realSystem } from '../system/real.js'
import type { System } from '../system/types.js'
import { openSetup } from './context.js'
import type { JailAccount } from './platform.js'

interface RemovalRequest {
  /** Logs and a changed configuration too. */
  readonly purge: boolean
  /** One line a thing done or kept. */
  readonly say: (line: string) => void
  /** Runs the removal of an account while no jail of its name can start. */
  readonly claimed: <T>(account: JailAccount, work: () => Promise<T>) => Promise<T>
}

export interface Upkeep {
  readonly system: System
  readonly checks: () => Promise<readonly Check[]>
  /** Throws STATE while a jail runs, CLEANUP_PARTIAL. */
  readonly uninstall: (request: RemovalRequest) => Promise<void>
}

export async function openUpkeep(config: Config): Promise<Upkeep> {
  if (process.platform !== 'darwin') {
    const system = realSystem()
    return {
      system,
      checks: async () => (await import('../doctor/doctor.js')).checks,
      uninstall: async (request) => {
        const { uninstall } = await import('../setup/uninstall.js')
        await uninstall({ system, config, ...request })
      },
    }
  }
  const { macParts, macTools } = await import('./macos/open.js')
  const { system, backend } = macParts(realSystem(), config)
  return {
    system,
    checks: async () => {
      const { macChecks } = await import('../doctor/macos.js')
      return macChecks({ backend, tools: macTools, setup: await openSetup() })
    },
    uninstall: async (request) => {
      const { uninstallMac } = await import('../setup/macos-uninstall.js')
      await uninstallMac({ system, config, backend, ...request })
    },
  }
}
