/**
 * A jail that the system starts at boot and keeps running.
 * Invariant: no secret stands in a service file: keys come by file, keychain or systemd credential, named only.
 */
import type { JailName } from '../plan/names.js'

export interface ServiceSpec {
  readonly name: JailName
  /** Absolute paths, or names of bundled policies. */
  readonly policies: readonly string[]
  readonly command: readonly [string, ...string[]]
  /** Absolute; where the command starts. */
  readonly cwd: string
  /** Absolute paths of Node and of agentjail's own program. */
  readonly node: string
  readonly program: string
  /** For the service's own output. */
  readonly logDir: string
  /** systemd credentials: id to the root-owned file that holds it. */
  readonly credentials: ReadonlyMap<string, string>
}

export interface ServiceStatus {
  readonly state: 'running' | 'stopped' | 'waiting' | 'not installed'
  readonly pid?: number
  /** As the service manager last saw it end. */
  readonly lastExit?: string
}

/** One service manager. */
export interface ServiceManager {
  /** What would be written. Pure. */
  render(spec: ServiceSpec): { readonly path: string; readonly text: string }
  /** Writes it, loads it, and has it start now and at each boot. Replaces one of the same name. */
  install(spec: ServiceSpec): Promise<void>
  /** Stops it and removes the file. False: there was none. */
  uninstall(name: JailName): Promise<boolean>
  status(name: JailName): Promise<ServiceStatus>
  /** The last lines it wrote. */
  logs(name: JailName, lines: number): Promise<string>
}

/** `agentjail run …`: the rules are in before the command starts, at boot as by hand. */
export function runArguments(spec: ServiceSpec): string[] {
  return [
    spec.node,
    spec.program,
    'run',
    '--name',
    spec.name,
    ...spec.policies.flatMap((policy) => ['--policy', policy]),
    '--',
    ...spec.command,
  ]
}
