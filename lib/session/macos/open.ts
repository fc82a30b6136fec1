/**
 * The parts of a privileged command on macOS: every program has its one place, and belongs to the system.
 */
import { existsSync } from 'node:fs'
import { pfBackend, type PfBackend } from '../../backend/pf/index.js'
import { JailError } from '../../errors.js'
import { launchMac } from '../../launch/macos/launch.js'
import type { Config } from '../../setup/config.js'
import type { System } from '../../system/types.js'
import type { Context } from '../context.js'
import { hostAddresses } from '../host.js'
import { openRegistry } from '../registry.js'
import { spawnMacGate } from './gate.js'
import { macPlatform } from './platform.js'
import { darwinSystem } from './system.js'

export const macTools = [
  '/sbin/pfctl',
  '/usr/bin/dscl',
  '/usr/bin/dsmemberutil',
  '/bin/launchctl',
  '/usr/bin/sudo',
  '/usr/bin/sandbox-exec',
  '/usr/bin/perl',
  '/bin/chmod',
  '/bin/ps',
  '/usr/sbin/sysctl',
] as const

/** What pf holds, and the system as macOS tells of it. Throws TOOL_MISSING. */
export function macParts(base: System, config: Config): { system: System; backend: PfBackend } {
  const missing = macTools.find((path) => !existsSync(path))
  if (missing !== undefined)
    throw new JailError('TOOL_MISSING', `${missing} is missing, which macOS comes with`)
  const system = darwinSystem(base)
  const { stateDir, uidRange: range, pfAnchor: anchor } = config
  const warn = (text: string): void => {
    process.stderr.write(`agentjail: ${text}\n`)
  }
  const ownAddresses = hostAddresses
  const backend = pfBackend({ system, stateDir, range, ownAddresses, warn, anchor })
  return { system, backend }
}

/** Throws TOOL_MISSING. */
export function openMac(base: System, config: Config): Context & { readonly backend: PfBackend } {
  const { system, backend } = macParts(base, config)
  const registry = openRegistry(system, config.stateDir)
  const openGate = spawnMacGate
  const launch: Parameters<typeof macPlatform>[0]['launch'] = (request) =>
    launchMac(system, request)
  const platform = macPlatform({ system, config, registry, backend, openGate, launch })
  return { system, config, registry, backend, platform }
}
