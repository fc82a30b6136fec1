/**
 * Parses by the table of commands, with yargs.
 * Invariant: what a command takes is said in the table alone.
 */
import yargs from 'yargs'
import type { Argv, Options } from 'yargs'
import { JailError } from '../errors.js'
import type { Ending } from '../launch/types.js'
import type { CommandIo } from './io.js'
import { refuseBareCommand, specOf } from './bare-command.js'
import { checkWords } from './check-words.js'
import { checkCommand } from './known-command.js'
import { commands, groups } from './table/commands.js'
import { type CommandSpec, type OptionSpec, type PositionalSpec, Words } from './table/types.js'

/** Variables that say how to write to the terminal. */
const shownBy = ['TERM', 'COLORTERM', 'NO_COLOR', 'FORCE_COLOR', 'LANG', 'LC_ALL', 'TZ']

/** Columns of help where it is no terminal; never wider than 100. */
const defaultColumns = 80

/** Parses and runs; resolves with how to end, `undefined` for help. Throws USAGE and what commands throw. */
export async function parse(typed: readonly string[]): Promise<Ending | undefined> {
  const argv = typed[0] === '--version' ? ['version', ...typed.slice(1)] : typed
  checkCommand(argv)
  refuseBareCommand(argv)
  const spec = specOf(argv)
  if (spec !== undefined) checkWords(argv, spec)
  const io: CommandIo = { stdout: process.stdout, stderr: process.stderr, env: process.env }
  let ending: Ending | undefined
  const table = yargs()
    .scriptName('agentjail')
    .usage(
      '$0 <command>\n\nRuns any command as a service user of its own, with only the network a policy allows.',
    )
    .parserConfiguration({
      'populate--': true,
      'parse-numbers': false,
      'camel-case-expansion': false,
    })
    .strict()
    .detectLocale(false)
    .exitProcess(false)
    .fail((message: string | null, error: unknown) => {
      // A message is yargs' own, of words it cannot place; without one it is what a command threw.
      if (error instanceof JailError || message === null || message === '') throw error
      const text = lowerFirst(message.replaceAll('\n', ' '))
      throw new JailError(
        'USAGE',
        text,
        text.includes('--help')
          ? {}
          : { hint: `see: agentjail ${spec === undefined ? '' : `${spec.name} `}--help` },
      )
    })
    .help()
    .alias('help', 'h')
    .version(false)
    .option('debug', {
      type: 'boolean',
      default: false,
      describe: 'On an error, show where it came from',
    })
    .demandCommand(1, 'Say what to do: agentjail run --policy openai -- COMMAND')
    .epilogue(
      `${examplesText([
        ['run -p openai -- node agent.js', 'Under a bundled policy'],
        ['policy list', 'What is bundled'],
      ])}\n\nagentjail COMMAND --help has the options of each, with examples.`,
    )
    .wrap(Math.min(100, process.stdout.columns || defaultColumns))
  const add = (to: Argv, spec: CommandSpec, name: string): void => {
    to.command(
      [name, ...(spec.positionals ?? []).map(positionalForm)].join(' '),
      spec.summary,
      (sub) => describeCommand(sub, spec),
      async (args) => {
        const words = new Words(args, argv)
        const isUser = process.getuid?.() !== 0
        const end =
          isUser && spec.needsRoot?.(words) === true
            ? await (await import('../session/elevate.js')).elevate(words.script, argv, shownBy)
            : await spec.run(words, io)
        ending = typeof end === 'number' ? { code: end } : end
      },
    )
  }
  const grouped = new Set<string>()
  for (const spec of commands) {
    const [first = '', second] = spec.name.split(' ')
    if (second === undefined) add(table, spec, first)
    else if (!grouped.has(first)) {
      grouped.add(first)
      table.command(first, groups.get(first) ?? '', (sub) => {
        for (const one of commands.filter(({ name }) => name.startsWith(`${first} `)))
          add(sub, one, one.name.slice(first.length + 1))
        return describeGroup(sub, first)
      })
    }
  }
  await table.parseAsync(argv)
  return ending
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1)
}

function positionalForm({ name, kind }: PositionalSpec): string {
  switch (kind) {
    case 'required':
      return `<${name}>`
    case 'optional':
      return `[${name}]`
    case 'several':
      return `[${name}..]`
  }
}

function describeGroup(sub: Argv, first: string): Argv {
  const below = commands.filter(({ name }) => name.startsWith(`${first} `))
  return sub
    .epilogue(examplesText(below.flatMap(({ examples }) => examples.slice(0, 1))))
    .demandCommand(1, `Say what to do; see: agentjail ${first} --help`)
}

/** Each on a line of its own, which yargs' own table of examples would break. */
function examplesText(examples: CommandSpec['examples']): string {
  const lines = examples.flatMap(([line, text]) => [
    `  agentjail ${line}`,
    ...(text === '' ? [] : [`      ${text}`]),
  ])
  return ['Examples:', ...lines].join('\n')
}

function describeCommand(sub: Argv, spec: CommandSpec): Argv {
  if (spec.takesCommand === true) {
    const form = [spec.name, ...(spec.positionals ?? []).map(positionalForm)].join(' ')
    sub.usage(`$0 ${form} [options] -- COMMAND\n\n${spec.summary}`)
  }
  for (const { name, kind, choices, describe } of spec.positionals ?? []) {
    sub.positional(name, {
      type: 'string',
      describe,
      ...(kind === 'several' ? { array: true as const, default: [] } : {}),
      ...(kind === 'required' ? { demandOption: true as const } : {}),
      ...(choices === undefined ? {} : { choices }),
    })
  }
  for (const option of spec.options ?? []) sub.option(option.name, yargsOption(option))
  const examples = examplesText(spec.examples)
  return sub.epilogue(spec.epilogue === undefined ? examples : `${examples}\n\n${spec.epilogue}`)
}

function yargsOption({
  alias,
  type,
  describe,
  choices,
  hidden,
  conflicts,
  ...more
}: OptionSpec): Options {
  return {
    describe,
    ...(alias === undefined ? {} : { alias }),
    ...(choices === undefined ? {} : { choices }),
    ...(hidden === undefined ? {} : { hidden }),
    ...(conflicts === undefined ? {} : { conflicts }),
    ...(more.default === undefined ? {} : { default: more.default }),
    ...(type === 'flag' ? { type: 'boolean' } : { type: 'string', requiresArg: true }),
    ...(type === 'texts' ? { array: true, nargs: 1 } : {}),
  }
}
