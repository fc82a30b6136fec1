/**
 * Services on macOS: a LaunchDaemon for each.
 * Invariant: files are root's and 0644, or launchd refuses them; what was loaded is asked back.
 */
import { JailError } from '../errors.js'
import type { JailName } from '../plan/names.js'
import type { System } from '../system/types.js'
import { printPlist } from './plist.js'
import { runArguments, type ServiceManager, type ServiceSpec, type ServiceStatus } from './types.js'

const launchctl = '/bin/launchctl'
export const launchdDirectory = '/Library/LaunchDaemons'
/** launchd starts a job at most this often, in seconds. */
const throttle = 10
/** EX_CONFIG: launchd could not start the program at all. */
const notStarted = 78
/** What `print` answers of a job that it does not know. */
const notFound = 113
/** Where launchd still tears the old job down, a bootstrap answers 5. */
const patience = { attempts: 20, pause: 500 }

/** The job that closes the reserved uids at boot. */
export const denyLabel = 'org.agentjail.deny'
export const serviceLabel = (name: string): string => `org.agentjail.jail.${name}`
const pathOf = (name: string): string => `${launchdDirectory}/${serviceLabel(name)}.plist`

export function launchdServices(system: System, logDir: string): ServiceManager {
  const logOf = (name: string): string => `${logDir}/service-${name}.log`
  const isLoaded = (name: string): Promise<boolean> => isJobLoaded(system, serviceLabel(name))
  const unload = async (name: string): Promise<void> => {
    await system.run([launchctl, 'bootout', `system/${serviceLabel(name)}`], { timeout: 60_000 })
    for (let attempt = 0; await isLoaded(name); attempt++) {
      if (attempt === patience.attempts)
        throw new JailError('STATE', `launchd does not let go of ${serviceLabel(name)}`, {
          hint: `sudo launchctl bootout system/${serviceLabel(name)}`,
        })
      await system.sleep(patience.pause)
    }
  }
  return {
    render: renderDaemon,
    install: async (spec) => {
      const { path, text } = renderDaemon(spec)
      if (await isLoaded(spec.name)) await unload(spec.name)
      await system.makeDir(logDir, 0o700)
      await system.writeFile(path, text, 0o644)
      try {
        await bootstrap(system, path, spec.name)
      } catch (error) {
        await system.removeFile(path)
        throw error
      }
    },
    uninstall: async (name) => {
      const isThere = (await system.lstat(pathOf(name))) !== undefined
      if (await isLoaded(name)) await unload(name)
      await system.removeFile(pathOf(name))
      return isThere
    },
    status: (name) => status(system, name),
    logs: async (name, lines) => {
      const text = (await system.readFile(logOf(name))) ?? ''
      return `${text.trimEnd().split('\n').slice(-lines).join('\n')}\n`
    },
  }
}

/** @throws JailError STATE where launchd does not tell. */
export async function isJobLoaded(system: System, label: string): Promise<boolean> {
  const { code, stderr } = await system.run([launchctl, 'print', `system/${label}`])
  if (code === 0) return true
  if (code === notFound) return false
  const said = stderr.trim().split('\n')[0] ?? ''
  throw new JailError('STATE', `launchd does not tell of ${label}: ${said}`, { hint: 'try again' })
}

/** The job that closes the reserved uids' network at boot: pf is off, and empty, after each restart. */
export function renderDenyDaemon(node: string, program: string): { path: string; text: string } {
  const text = printPlist({
    Label: denyLabel,
    ProgramArguments: [node, program, 'setup'],
    RunAtLoad: true,
    // Again when pf's own boot job had not run yet.
    KeepAlive: { SuccessfulExit: false },
    ProcessType: 'Interactive',
  })
  return { path: `${launchdDirectory}/${denyLabel}.plist`, text }
}

function renderDaemon(spec: ServiceSpec): { path: string; text: string } {
  if (spec.credentials.size > 0)
    throw new JailError('USAGE', 'macOS has no systemd credentials', {
      hint: 'in the policy, take the key from a root-owned file (file:…) or from keychain:…',
    })
  const log = `${spec.logDir}/service-${spec.name}.log`
  const text = printPlist({
    Label: serviceLabel(spec.name),
    ProgramArguments: runArguments(spec),
    WorkingDirectory: spec.cwd,
    // Restarted whenever it ends; as often as launchd likes.
    KeepAlive: true,
    ThrottleInterval: throttle,
    ExitTimeOut: 20,
    Umask: 0o077,
    StandardOutPath: log,
    StandardErrorPath: log,
    // launchd gives none of its own but these few.
    EnvironmentVariables: { PATH: '/usr/bin:/bin:/usr/sbin:/sbin' },
  })
  return { path: pathOf(spec.name), text }
}

async function bootstrap(system: System, path: string, name: JailName): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    const result = await system.run([launchctl, 'bootstrap', 'system', path])
    if (result.code === 0) break
    if (attempt === patience.attempts || !/\b5: Input\/output error/.test(result.stderr)) {
      const said = result.stderr.trim().split('\n')[0] ?? ''
      throw new JailError('STATE', `launchd does not take ${path}: ${said}`, {
        hint: /119|disabled/i.test(result.stderr)
          ? `sudo launchctl enable system/${serviceLabel(name)}`
          : 'run it as root; see: plutil -lint, and Console for messages of launchd',
      })
    }
    await system.sleep(patience.pause)
  }
}

/** The output of `print` is no interface; what is not found in it is left out. */
async function status(system: System, name: JailName): Promise<ServiceStatus> {
  const result = await system.run([launchctl, 'print', `system/${serviceLabel(name)}`])
  if (result.code !== 0) {
    const isThere = (await system.lstat(pathOf(name))) !== undefined
    return { state: isThere ? 'stopped' : 'not installed' }
  }
  const state = /^\s*state = (.+)$/m.exec(result.stdout)?.[1]
  const pid = /^\s*pid = (\d+)$/m.exec(result.stdout)?.[1]
  const exit = /^\s*last exit code = (.+)$/m.exec(result.stdout)?.[1]
  const failed = exit === String(notStarted) ? `${exit} (the program could not be started)` : exit
  return {
    state: state === 'running' ? 'running' : state === 'spawn scheduled' ? 'waiting' : 'stopped',
    ...(pid === undefined ? {} : { pid: Number(pid) }),
    ...(failed === undefined || failed.startsWith('(never') ? {} : { lastExit: failed }),
  }
}
