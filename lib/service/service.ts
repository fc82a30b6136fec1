/**
 * `agentjail service`: from words to a service manager.
 * Invariant: a service runs as root at boot, so nothing that it starts from may be writable by anyone else.
 */
import { isAbsolute, resolve } from 'node:path'
import { JailError } from '../errors.js'
import type { JailName } from '../plan/names.js'
import type { System } from '../system/types.js'
import { launchdServices } from './launchd.js'
import { systemdServices } from './systemd.js'
import type { ServiceManager, ServiceSpec } from './types.js'

export interface ServiceRequest {
  readonly name: JailName
  readonly policies: readonly string[]
  readonly command: readonly string[]
  readonly cwd: string
  readonly node: string
  readonly program: string
  readonly logDir: string
  readonly credentials: readonly string[]
}

/** By platform; throws where Linux is not run by systemd. `print`: nothing will be done, so it need not be. */
export async function serviceManager(
  system: System,
  logDir: string,
  print = false,
): Promise<ServiceManager> {
  if (system.platform === 'darwin') return launchdServices(system, logDir)
  // sd_booted(3).
  if (!print && (await system.lstat('/run/systemd/system')) === undefined)
    throw new JailError('PLATFORM', 'services need systemd, which does not run here', {
      hint: 'start agentjail run from your own supervisor: it ends, and returns, as its command does',
    })
  return systemdServices(system, {
    systemctl: '/usr/bin/systemctl',
    journalctl: '/usr/bin/journalctl',
  })
}

/** Checked and made absolute. Throws USAGE, POLICY_UNSAFE. */
export async function serviceSpec(system: System, request: ServiceRequest): Promise<ServiceSpec> {
  const [program, ...args] = request.command
  if (program === undefined)
    throw new JailError('USAGE', 'no command given', {
      hint: `agentjail service install ${request.name} --policy POLICY -- COMMAND`,
    })
  if (request.policies.length === 0)
    throw new JailError('USAGE', 'no policy given', { hint: 'add --policy NAME or a file' })
  const policies = request.policies.map((policy) =>
    isBundled(policy) ? policy : resolve(request.cwd, policy),
  )
  for (const path of [
    request.node,
    request.program,
    ...policies.filter((each) => isAbsolute(each)),
  ])
    await refuseWritable(system, path)
  return {
    name: request.name,
    policies,
    command: [program, ...args],
    cwd: request.cwd,
    node: request.node,
    program: request.program,
    logDir: request.logDir,
    credentials: new Map(request.credentials.map(parseCredential)),
  }
}

function isBundled(policy: string): boolean {
  return /^(bundle:)?[a-z0-9]+(-[a-z0-9]+)*$/.test(policy)
}

/** `ID:/path`. */
function parseCredential(text: string): [string, string] {
  const match = /^([A-Za-z0-9_.-]{1,64}):(\/.+)$/.exec(text)
  if (match?.[1] === undefined || match[2] === undefined)
    throw new JailError('USAGE', `${JSON.stringify(text)} is no credential`, {
      hint: 'give the id that the policy names and a root-owned file: --credential openai:/etc/agentjail/openai',
    })
  return [match[1], match[2]]
}

/** The file and every directory above it: root's, and writable by root alone. */
async function refuseWritable(system: System, path: string): Promise<void> {
  const parts = path.split('/').slice(1)
  const ways = ['/', ...parts.map((_, index) => `/${parts.slice(0, index + 1).join('/')}`)]
  for (const way of ways) {
    const stat = await system.lstat(way)
    if (stat === undefined) throw new JailError('USAGE', `there is no ${way}`)
    const isSticky = stat.kind === 'directory' && (stat.mode & 0o1000) !== 0
    if (stat.uid === 0 && (stat.kind === 'symlink' || isSticky || (stat.mode & 0o022) === 0))
      continue
    throw new JailError(
      'POLICY_UNSAFE',
      `a service would run ${path} as root, and others may change ${way}`,
      {
        hint: 'install agentjail and Node for the whole machine (docs/setup.md), and keep policies in /etc/agentjail',
      },
    )
  }
}
