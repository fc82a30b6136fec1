/**
 * The parts every privileged command needs, made once. The only place that chooses by platform and, with `backends.ts`, by firewall.
 */
import { sessionArgv } from '../backend/nftables/session.js'
import type { Backend } from '../backend/types.js'
import { mayMakeNamespaces, requireCapabilities } from '../container/capabilities.js'
import { JailError } from '../errors.js'
import { startServer } from '../launch/first-step.js'
import type { ForkServer } from '../launch/fork-server.js'
import { loadConfig } from '../setup/config.js'
import type { Isolation } from '../policy/types.js'
import type { Config } from '../setup/config.js'
import type { SetupStep } from '../setup/setup.js'
import { realSystem } from '../system/real.js'
import { findTool, findTools } from '../system/tools.js'
import type { System } from '../system/types.js'
import type { Battery } from '../verify/types.js'
import { chooseBackend } from './backends.js'
import type { BackendChoice } from './backend-choice.js'
import { collect, deadJails } from './collect.js'
import type { Collected, CollectTools } from './collect.js'
import { withLock } from './lock.js'
import type { Platform } from './platform.js'
import { openRegistry } from './registry.js'
import type { Registry } from './registry.js'

const toolNames = [
  'ip',
  'unshare',
  'nsenter',
  'perl',
  'setpriv',
  'bwrap',
  'useradd',
  'userdel',
  'stty',
] as const
type ToolName = (typeof toolNames)[number]

export interface Context {
  readonly system: System
  readonly config: Config
  readonly registry: Registry
  readonly backend: Backend
  readonly platform: Platform
}

export interface LinuxContext extends Context {
  readonly tools: { readonly [name in ToolName]: string }
  /** False in a container without CAP_SYS_ADMIN: launch and gate then do without namespaces and mounts. */
  readonly namespaces: boolean
  /** Started ahead for a jail's start. */
  readonly server?: ForkServer | undefined
}

/** For commands that change the machine: root, every tool in place. Throws NOT_ROOT, PLATFORM, TOOL_MISSING. */
export async function openContext(
  system: System = realSystem(),
  asked?: BackendChoice,
  server?: ForkServer,
): Promise<Context> {
  if (process.getuid?.() !== 0) {
    throw new JailError('NOT_ROOT', 'this needs root', { hint: 'run it through sudo' })
  }
  if (process.platform !== 'darwin')
    return await openLinuxContext(server?.over(system) ?? system, asked, server)
  if (asked !== undefined)
    throw new JailError('PLATFORM', `there is no ${asked} on macOS`, {
      hint: 'leave --backend away: pf is used',
    })
  const { openMac } = await import('./macos/open.js')
  return openMac(system, await loadConfig())
}

/** For what is of Linux alone. As root. Throws PLATFORM, TOOL_MISSING. */
export async function openLinuxContext(
  system: System = realSystem(),
  asked?: BackendChoice,
  server?: ForkServer,
): Promise<LinuxContext> {
  if (process.platform !== 'linux')
    throw new JailError('PLATFORM', `${process.platform} is not supported here`)
  const config = await loadConfig()
  const found = findTools(toolNames)
  const tools = Object.fromEntries(
    toolNames.map((name) => [name, found.get(name)]),
  ) as LinuxContext['tools']
  const { stateDir, uidRange: range } = config
  const dumpChain = server?.dumpChain.bind(server)
  const request = {
    ...{ system, stateDir, range, tools, dumpChain },
    ...(asked === undefined ? {} : { asked }),
  }
  const backend = await chooseBackend(request)
  const registry = openRegistry(system, config.stateDir)
  const { linuxPlatform } = await import('./linux-platform.js')
  const platform = linuxPlatform(() => context)
  const namespaces = mayMakeNamespaces((await system.readFile('/proc/self/status')) ?? '')
  const context: LinuxContext = {
    ...{ system, config, tools, namespaces, registry, backend, platform, server },
  }
  return context
}

/**
 * What of a jail's start can be under way before its policy is read; undefined: nothing here, or nothing that works:
 * whoever needs it finds out why.
 */
export function startAhead({
  backend,
  isolation = 'namespace',
}: {
  readonly backend?: BackendChoice | undefined
  readonly isolation?: Isolation | undefined
}): ForkServer | undefined {
  if (process.platform !== 'linux') return undefined
  const [perl, nft, unshare] = (['perl', 'nft', 'unshare'] as const).map((name) => findTool(name))
  if (perl?.state !== 'found') return undefined
  const server = startServer(perl.path)
  if ((backend ?? 'nftables') !== 'nftables') return server
  // Mostly it is what the policy says, too.
  if (nft?.state === 'found' && unshare?.state === 'found') {
    const tools = { nft: nft.path, unshare: unshare.path }
    server?.expectSession(sessionArgv(tools, isolation === 'namespace' ? isolation : 'uid'))
  }
  return server
}

/** What makes this machine ready; needs no privilege to be asked. */
export async function openSetup(): Promise<readonly SetupStep[]> {
  const config = await loadConfig()
  if (process.platform === 'darwin') {
    const { openMac } = await import('./macos/open.js')
    const { macSetupSteps } = await import('../setup/macos.js')
    const [, program = ''] = process.argv
    const mac = openMac(realSystem(), config)
    return macSetupSteps({
      ...mac,
      lock: (work) => withLock(mac, work),
      node: process.execPath,
      program,
    })
  }
  const { setupSteps } = await import('../setup/setup.js')
  const { readDistro } = await import('../system/tools.js')
  return await setupSteps({ system: realSystem(), config, distro: readDistro() })
}

/** What `verify` tries on this machine; needs no privilege to be asked. */
export async function openBattery(): Promise<Battery> {
  if (process.platform === 'darwin') return (await import('../verify/macos/battery.js')).macBattery
  return (await import('../verify/battery.js')).linuxBattery
}

/**
 * The state directory, before the first change: what only looks makes nothing.
 * @param isolation of the jail that is to be made; absent: none is.
 * @throws JailError NOT_ROOT where root may not do what it takes.
 */
export async function makeState(
  { system, config }: Pick<Context, 'system' | 'config'>,
  isolation?: Isolation,
): Promise<void> {
  const status = await system.readFile('/proc/self/status')
  const namespaces = isolation !== undefined && isolation !== 'basic'
  if (status !== undefined) requireCapabilities(status, namespaces)
  await system.makeDir(config.stateDir, 0o700)
  await system.makeDir(`${config.stateDir}/jails`, 0o700)
}

export function collectTools({ system, registry, backend, platform }: Context): CollectTools {
  return { system, registry, backend, cleanLaunch: (entry) => platform.cleanLaunch(entry) }
}

/** Clears dead jails if there are any; nothing is locked when there are none. */
export async function collectDead(context: Context): Promise<Collected> {
  if ((await deadJails(context, 'share')).length === 0) return { cleared: [], kept: [] }
  return await withLock(context, () => collect(collectTools(context)))
}
