/** The first words of a command line against the table of commands, for one clear error with the nearest name. */
import { JailError } from '../errors.js'
import { nearest } from '../policy/keys.js'
import { commands, groups } from './table/commands.js'

/** Throws USAGE where the first word, or the one after a group's name, is no command. */
export function checkCommand(argv: readonly string[]): void {
  const end = argv.indexOf('--')
  const words = argv.slice(0, end < 0 ? argv.length : end)
  const start = words.findIndex((word) => !word.startsWith('-'))
  const [first, second] = start < 0 ? [] : words.slice(start)
  if (first === undefined) {
    if (end >= 0 && words.every((word) => word === '--debug'))
      throw new JailError('USAGE', 'no command before --', {
        hint: 'say what to do: agentjail run --policy openai -- COMMAND',
      })
    return
  }
  demand(first, 'command', [...new Set(commands.map(({ name }) => name.split(' ')[0] ?? name))], '')
  if (!groups.has(first) || second === undefined || second.startsWith('-')) return
  const below = commands.filter(({ name }) => name.startsWith(`${first} `))
  demand(
    second,
    `command of ${first}`,
    below.map(({ name }) => name.slice(first.length + 1)),
    ` ${first}`,
  )
}

function demand(word: string, what: string, known: readonly string[], path: string): void {
  if (known.includes(word)) return
  const near = nearest(word, known)
  throw new JailError('USAGE', `unknown ${what}: ${word}`, {
    hint:
      near === undefined
        ? `see: agentjail${path} --help`
        : `did you mean agentjail${path} ${near}? agentjail${path} --help shows all`,
  })
}
