/**
 * The words of a command against the table, for one clear error in the terms of the command line.
 * Invariant: pure; a line that it is not sure of (help, several short options in one word) is left to the parser.
 */
import { JailError } from '../errors.js'
import { nearest } from '../policy/keys.js'
import { quote } from '../policy/problem.js'
import type { CommandSpec, OptionSpec, PositionalSpec } from './table/types.js'

/** Throws USAGE for an option or value that the command does not know, for a word too many or too few. */
export function checkWords(argv: readonly string[], spec: CommandSpec): void {
  const end = argv.indexOf('--')
  const words = argv.slice(0, end < 0 ? argv.length : end)
  if (words.includes('--help') || words.includes('-h')) return
  const given = new Set<string>()
  const own: string[] = []
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? ''
    if (!word.startsWith('-') || word === '-') {
      own.push(word)
      continue
    }
    if (!word.startsWith('--') && word.length > 2) return
    const [form, inline] = splitOnce(word, '=')
    if (form === '--debug') continue
    const option = optionOf(form, spec)
    given.add(option.name)
    if (option.type === 'flag') continue
    const value = inline ?? words[++at]
    if (value === undefined || (inline === undefined && /^-./.test(value)))
      throw mistake(spec, `${form} needs a value`, `write ${form} ${option.value ?? 'VALUE'}`)
    if (option.choices?.includes(value) === false)
      throw mistake(spec, `${form} ${quote(value)} is not known`, chooseOf(option.choices))
  }
  for (const { name, conflicts = [] } of spec.options ?? []) {
    const other = given.has(name) ? conflicts.find((one) => given.has(one)) : undefined
    if (other !== undefined)
      throw mistake(spec, `--${name} and --${other} do not go together`, 'leave out one of them')
  }
  checkPositionals(own.slice(spec.name.split(' ').length), spec)
}

function optionOf(form: string, spec: CommandSpec): OptionSpec {
  const options = spec.options ?? []
  const found = options.find(
    ({ name, alias, type }) =>
      form === `--${name}` ||
      form === `-${alias ?? '-'}` ||
      (type === 'flag' && form === `--no-${name}`),
  )
  if (found !== undefined) return found
  const shown = options.filter(({ hidden }) => hidden !== true).map(({ name }) => name)
  const near = form.startsWith('--') ? nearest(form.slice(2), shown) : undefined
  throw mistake(
    spec,
    `unknown option ${form}`,
    near === undefined ? undefined : `did you mean --${near}?`,
  )
}

function checkPositionals(own: readonly string[], spec: CommandSpec): void {
  const positionals = spec.positionals ?? []
  for (const [index, { name, kind, choices }] of positionals.entries()) {
    const value = own[index]
    const [example] = spec.examples[0] ?? ['']
    if (kind === 'required' && value === undefined)
      throw mistake(spec, `${spec.name} needs ${nameOf(name)}`, `for example: agentjail ${example}`)
    if (value !== undefined && choices?.includes(value) === false)
      throw mistake(spec, `${nameOf(name)} ${quote(value)} is not known`, chooseOf(choices))
  }
  if (positionals.some(({ kind }) => kind === 'several')) return
  const extra = own[positionals.length]
  if (extra !== undefined) throw mistake(spec, `${spec.name} does not take ${quote(extra)}`)
}

const nameOf = (name: PositionalSpec['name']): string => name.toUpperCase()

const chooseOf = (choices: readonly string[]): string => `choose one of ${choices.join(', ')}`

function splitOnce(word: string, at: string): [string, string | undefined] {
  const index = word.indexOf(at)
  return index < 0 ? [word, undefined] : [word.slice(0, index), word.slice(index + 1)]
}

function mistake(spec: CommandSpec, what: string, hint?: string): JailError {
  return new JailError('USAGE', what, { hint: hint ?? `see: agentjail ${spec.name} --help` })
}
