/**
 * What `agentjail setup` does, as steps that know whether they are done.
 * Invariant: every step is idempotent; the static deny is in force and read back at the end, and at
 * each boot; nothing is installed but the packages named.
 */
import { dirname } from 'node:path'
import { ensureGateUser } from '../account/linux.js'
import { entryNamed } from '../system/passwd.js'
import { JailError } from '../errors.js'
import { type Distro, installArgv, installLine, requiredTools } from '../system/distro.js'
import { findTool, findTools } from '../system/tools.js'
import type { System } from '../system/types.js'
import { findBoot } from './boot.js'
import { type Config, defaultConfigText } from './config.js'
import { findFirewall } from './firewall.js'
import type { SetupFirewall } from './firewall.js'
import { paths, renderTmpfiles } from './units.js'

export interface SetupStep {
  readonly title: string
  /** Why it is needed. */
  readonly why: string
  isDone(): Promise<boolean>
  apply(): Promise<void>
  /** It cannot be done from here; this is for people to do. */
  readonly byHand?: string
  /** What it would do, for `--print`. */
  readonly lines: readonly string[]
}

export interface SetupContext {
  readonly system: System
  readonly config: Config
  readonly distro: Distro
}

/** Minutes: a package manager may wait for its lock and download. */
const installTimeout = 10 * 60_000

/** In the order in which they are done. */
export async function setupSteps(context: SetupContext): Promise<readonly SetupStep[]> {
  const { system, config } = context
  const firewall = findFirewall(context)
  const boot = await findBoot(system, firewall.load)
  return [
    packagesStep(context, [...requiredTools, ...firewall.tools]),
    directoriesStep(context),
    fileStep(system, paths.config, defaultConfigText, 'the settings of this machine', 'keep'),
    gateUserStep(context),
    ...firewall.files.map(({ path, text }) =>
      fileStep(
        system,
        path,
        text,
        'the rules that deny the reserved users everything, as boot loads them',
        'replace',
      ),
    ),
    denyStep(firewall),
    fileStep(
      system,
      paths.tmpfiles,
      renderTmpfiles(config.stateDir),
      'the state directory comes back with each boot',
      'replace',
    ),
    {
      title: 'static deny at boot',
      why: 'an old job of a jail’s user (cron @reboot, at) must find no network either',
      isDone: () => boot.isInstalled(),
      apply: () => boot.install(),
      lines: boot.lines,
      ...(boot.byHand === undefined ? {} : { byHand: boot.byHand }),
    },
  ]
}

function packagesStep({ system, distro }: SetupContext, tools: readonly string[]): SetupStep {
  const missingTools = (): readonly string[] =>
    tools.filter((tool) => findTool(tool).state === 'missing')
  const missing = missingTools()
  return {
    title: 'system packages',
    why: 'the firewall, the sandbox and the accounts are made by the system’s own tools',
    isDone: () => Promise.resolve(missingTools().length === 0),
    apply: async () => {
      const argv = installArgv(distro, missingTools())
      const manager = argv === undefined ? undefined : findTool(argv[0])
      if (argv === undefined || manager?.state !== 'found') {
        throw new JailError('TOOL_MISSING', `${missingTools().join(', ')} not installed`, {
          hint: installLine(distro, missingTools()),
        })
      }
      const env = { DEBIAN_FRONTEND: 'noninteractive' }
      const options = { timeout: installTimeout, env, onTerminal: true }
      const run = () => system.run([manager.path, ...argv.slice(1)], options)
      let result = await run()
      if (result.code !== 0 && distro.manager === 'apt') {
        // A fresh image has no package lists, and old lists name packages that are gone.
        await system.run([manager.path, 'update'], options)
        result = await run()
      }
      const still = missingTools()
      // It may fail for another package's sake, and have installed these.
      if (still.length > 0) {
        const said = (result.stderr || result.stdout).trim().split('\n').at(-1) ?? ''
        throw new JailError('TOOL_MISSING', `could not install ${still.join(', ')}: ${said}`, {
          hint: installLine(distro, still),
        })
      }
    },
    lines: missing.length === 0 ? [] : [installLine(distro, missing).replace(/^sudo /, '')],
  }
}

function directoriesStep({ system, config }: SetupContext): SetupStep {
  const wanted: readonly (readonly [string, number])[] = [
    [paths.configDir, 0o755],
    [config.stateDir, 0o700],
    [config.logDir, 0o700],
    [dirname(config.homeDir), 0o755],
    [config.homeDir, 0o755],
  ]
  const isRight = async ([path, mode]: readonly [string, number]): Promise<boolean> => {
    const stat = await system.lstat(path)
    return stat?.kind === 'directory' && stat.uid === 0 && stat.mode === mode
  }
  return {
    title: 'directories',
    why: 'state and logs are for root alone; each jail’s user has a home of its own',
    isDone: async () => (await Promise.all(wanted.map(isRight))).every(Boolean),
    apply: async () => {
      const tools = findTools(['chmod'])
      for (const [path, mode] of wanted) {
        const stat = await system.lstat(path)
        if (stat !== undefined && (stat.kind !== 'directory' || stat.uid !== 0)) {
          throw new JailError('STATE', `${path} is not a directory of root`, {
            hint: 'look at it, and move it away',
          })
        }
        if (stat === undefined) await system.makeDir(path, mode)
        // A umask takes bits away from what mkdir was told.
        await system.run([tools.get('chmod'), mode.toString(8).padStart(4, '0'), '--', path])
      }
    },
    lines: wanted.map(([path, mode]) => `mkdir -p -m ${mode.toString(8).padStart(4, '0')} ${path}`),
  }
}

/** `keep`: the administrator's once it is there. */
function fileStep(
  system: System,
  path: string,
  text: string,
  why: string,
  existing: 'keep' | 'replace',
): SetupStep {
  return {
    title: path,
    why,
    isDone: async () => {
      const now = await system.readFile(path)
      return existing === 'keep' ? now !== undefined : now === text
    },
    apply: async () => {
      await system.makeDir(dirname(path), 0o755)
      await system.writeFile(path, text, 0o644)
    },
    lines: [`write ${path}`],
  }
}

function gateUserStep({ system, config }: SetupContext): SetupStep {
  return {
    title: `user ${config.gateUser}`,
    why: 'what parses the network’s bytes runs as a user that owns nothing',
    isDone: async () =>
      entryNamed((await system.readFile('/etc/passwd')) ?? '', config.gateUser) !== undefined,
    apply: async () => {
      const tools = findTools(['useradd', 'userdel'])
      await ensureGateUser(system, config, {
        useradd: tools.get('useradd'),
        userdel: tools.get('userdel'),
      })
    },
    lines: [`useradd --system --shell /usr/sbin/nologin ${config.gateUser}`],
  }
}

function denyStep(firewall: SetupFirewall): SetupStep {
  return {
    title: 'static deny in force',
    why: 'a reserved user without a running jail has no network at all',
    isDone: async () => (await firewall.findProblem().catch(() => 'unknown')) === undefined,
    apply: () => firewall.ensureDeny(),
    lines: firewall.load.commands.map((command) => command.join(' ')),
  }
}
