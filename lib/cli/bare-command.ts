/**
 * A command line whose command does not stand after `--`: told with the line as it should be.
 * Invariant: pure; a line that it is not sure of is left to the parser.
 */
import { JailError } from '../errors.js'
import { shellWord } from '../shell-word.js'
import { commands } from './table/commands.js'
import type { CommandSpec } from './table/types.js'

/** The command that these words begin with; undefined: none. */
export function specOf(argv: readonly string[]): CommandSpec | undefined {
  const words = argv.filter((word) => word !== '--debug')
  return (
    commands.find(({ name }) => name === words.slice(0, 2).join(' ')) ??
    commands.find(({ name }) => name === words[0])
  )
}

/** Throws USAGE where a command begins before any `--`. */
export function refuseBareCommand(argv: readonly string[]): void {
  const spec = specOf(argv)
  if (spec?.takesCommand !== true || argv.includes('--')) return
  const start = startOfCommand(argv, spec)
  if (start === undefined) return
  const line = [...argv.slice(0, start), '--', ...argv.slice(start)].map(shellWord).join(' ')
  throw new JailError('USAGE', `put -- before the command`, { hint: `agentjail ${line}` })
}

/** Where the first word stands that is no option, no option's value and no positional of the command's own. */
function startOfCommand(argv: readonly string[], spec: CommandSpec): number | undefined {
  let own = spec.name.split(' ').length + (spec.positionals?.length ?? 0)
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? ''
    if (!word.startsWith('-') || word === '-') {
      if (own-- === 0) return at
      continue
    }
    if (word === '--debug' || word.includes('=')) continue
    if (word === '--help' || word === '-h') return undefined
    const option = spec.options?.find(
      ({ name, alias }) => word === `--${name}` || (alias !== undefined && word === `-${alias}`),
    )
    if (option === undefined) return undefined
    if (option.type !== 'flag') at++
  }
  return undefined
}
