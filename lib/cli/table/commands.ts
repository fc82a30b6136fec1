/** All commands, in the order of `--help`. */
import { jailCommands } from './jails.js'
import { machineCommands } from './machine.js'
import { policyCommands } from './policies.js'
import { runCommands } from './run.js'
import type { CommandSpec } from './types.js'

export const commands: readonly CommandSpec[] = [
  ...runCommands,
  ...jailCommands,
  ...policyCommands,
  ...machineCommands,
]

/** First words that have commands below them, and what these have in common. */
export const groups: ReadonlyMap<string, string> = new Map([
  ['policy', 'Policies: list, show, check'],
  ['service', 'Jails that start at boot: install, uninstall, status, logs'],
  ['account', 'Service users: list, remove'],
])
