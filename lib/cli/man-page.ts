/**
 * agentjail(1), made of the table of commands. Pure.
 * The macros are those of man(7).
 */
import { exitCode } from '../errors.js'
import { roff } from './roff.js'
import { commands } from './table/commands.js'
import type { CommandSpec, OptionSpec, PositionalSpec } from './table/types.js'

const intro = `Runs any command as a service user of its own; the operating system's firewall lets that user reach only what a policy allows. The command does not know about it and cannot turn it off; when it ends, its rules go.`

const exits: readonly (readonly [string, string])[] = [
  ["the command's own", 'The command ran; a death by signal is passed on as that signal.'],
  [String(exitCode.usage), 'Bad input: a policy, a name, an option. Nothing was changed.'],
  [String(exitCode.refused), 'agentjail refused or failed before the command was launched.'],
  [String(exitCode.notExecutable), 'The command was found but cannot be executed.'],
  [String(exitCode.notFound), 'The command was not found.'],
]

const files: readonly (readonly [string, string])[] = [
  ['/etc/agentjail/config.yaml', 'Settings of this machine.'],
  ['/etc/agentjail/policies/', 'Policies that `allow --save` makes.'],
  ['/var/log/agentjail/NAME.jsonl', 'The audit log of a jail.'],
  ['/run/agentjail/', 'The registry of jails that run.'],
]

const environment: readonly (readonly [string, string])[] = [
  ['NO_COLOR', 'Set and not empty: no colour (https://no-color.org).'],
  ['TERM', '`dumb`: no colour.'],
]

/** The page's source. @param version of the package */
export function manPage(version: string): string {
  return [
    `.TH AGENTJAIL 1 "" "agentjail ${roff(version)}" "User Commands"`,
    '.SH NAME',
    String.raw`agentjail \- run any command with only the network that a policy allows`,
    '.SH SYNOPSIS',
    ...commands.flatMap((spec) => [...synopsis(spec), '.br']).slice(0, -1),
    '.SH DESCRIPTION',
    roff(intro),
    '.SH COMMANDS',
    ...commands.flatMap(section),
    '.SH EXIT STATUS',
    ...exits.flatMap(item),
    '.SH ENVIRONMENT',
    ...environment.flatMap(item),
    '.SH FILES',
    ...files.flatMap(item),
    '.SH SEE ALSO',
    '.BR agentjail-policy (5);',
    'reasons of denials and errors: the file errors.md of the package, in docs.',
    '',
  ].join('\n')
}

function synopsis({ name, positionals = [], options = [], takesCommand }: CommandSpec): string[] {
  const shown = options.filter(({ hidden }) => hidden !== true)
  const words = [
    ...positionals.map(formOf),
    ...(shown.length > 0 ? ['[options]'] : []),
    ...(takesCommand === true ? ['-- COMMAND'] : []),
  ]
  return [`.B agentjail ${roff(name)}`, ...(words.length > 0 ? [roff(words.join(' '))] : [])]
}

function formOf({ name, kind }: PositionalSpec): string {
  const word = name.toUpperCase()
  if (kind === 'required') return word
  return kind === 'optional' ? `[${word}]` : `${word}...`
}

function section(spec: CommandSpec): string[] {
  const { name, summary, details, positionals = [], options = [], examples, epilogue } = spec
  return [
    `.SS ${roff(name)}`,
    sentence(summary),
    ...(details === undefined ? [] : ['.PP', roff(details)]),
    ...positionals.flatMap((one) =>
      item([one.name.toUpperCase(), `${one.describe}${choicesOf(one.choices)}.`]),
    ),
    ...options.filter(({ hidden }) => hidden !== true).flatMap(optionItem),
    ...(epilogue === undefined ? [] : ['.PP', roff(epilogue)]),
    ...examples.flatMap(([line, text]) => [
      '.PP',
      ...(text === '' ? [] : [`${roff(text)}:`]),
      '.RS 4',
      '.nf',
      roff(`agentjail ${line}`),
      '.fi',
      '.RE',
    ]),
  ]
}

function optionItem({ name, alias, value, describe, choices, ...more }: OptionSpec): string[] {
  const flags = [`--${name}`, ...(alias === undefined ? [] : [`-${alias}`])].join(', ')
  const by = more.default === undefined ? '' : ` [${String(more.default)}]`
  return item([
    value === undefined ? flags : `${flags} ${value}`,
    `${describe}${choicesOf(choices)}${by}.`,
  ])
}

const choicesOf = (choices: readonly string[] | undefined): string =>
  choices === undefined ? '' : ` (${choices.join(', ')})`

function item([term, text]: readonly [string, string]): string[] {
  return ['.TP', `.B ${roff(term)}`, roff(text)]
}

const sentence = (text: string): string => roff(`${text}.`)
