/**
 * What `agentjail setup` does on macOS, as steps that know whether they are done.
 * Invariant: the static deny is in force and read back before the job that repeats it at boot is installed.
 */
import { realpathSync } from 'node:fs'
import type { PfBackend } from '../backend/pf/index.js'
import { JailError } from '../errors.js'
import { denyLabel, isJobLoaded, renderDenyDaemon } from '../service/launchd.js'
import type { System } from '../system/types.js'
import type { Config } from './config.js'
import type { SetupStep } from './setup.js'

export interface MacSetup {
  readonly system: System
  readonly config: Config
  readonly backend: PfBackend
  readonly lock: <T>(work: () => Promise<T>) => Promise<T>
  /** Absolute paths of Node and of the agentjail program, for launchd. */
  readonly node: string
  readonly program: string
}

const launchctl = '/bin/launchctl'

export function macSetupSteps(setup: MacSetup): SetupStep[] {
  const { system, config, backend, lock, node, program } = setup
  const { path, text } = renderDenyDaemon(realpathSync(node), realpathSync(program))
  const isLoaded = (): Promise<boolean> => isJobLoaded(system, denyLabel)
  const directories = [config.stateDir, `${config.stateDir}/jails`, config.logDir]
  return [
    {
      title: 'directories',
      why: 'state and logs are for root alone',
      isDone: async () => (await Promise.all(directories.map(isOwn(system)))).every(Boolean),
      apply: async () => {
        for (const directory of directories) await system.makeDir(directory, 0o700)
      },
      lines: directories.map((directory) => `install -d -m 0700 -o root -g wheel ${directory}`),
    },
    {
      title: 'static deny',
      why: 'the reserved users have no network, whether a jail runs or not',
      isDone: async () => (await backend.denyProblem(config.uidRange)) === undefined,
      apply: () => lock(() => backend.ensureStaticDeny(config.uidRange)),
      lines: [`# anchor ${config.pfAnchor}: see agentjail plan`],
    },
    {
      title: 'static deny at boot',
      why: 'pf is off, and empty, after each restart',
      isDone: async () => (await system.readFile(path)) === text && (await isLoaded()),
      apply: async () => {
        if (await isLoaded()) await system.run([launchctl, 'bootout', `system/${denyLabel}`])
        await system.writeFile(path, text, 0o644)
        const { code, stderr } = await system.run([launchctl, 'bootstrap', 'system', path])
        if (code !== 0)
          throw new JailError('STATE', `launchd does not take ${path}: ${stderr.trim()}`, {
            hint: `sudo launchctl enable system/${denyLabel}, then again`,
          })
      },
      lines: [`# ${path}: ${node} ${program} setup`, `launchctl bootstrap system ${path}`],
    },
  ]
}

const isOwn =
  (system: System) =>
  async (path: string): Promise<boolean> => {
    const stat = await system.lstat(path)
    return stat?.kind === 'directory' && stat.uid === 0 && (stat.mode & 0o077) === 0
  }
