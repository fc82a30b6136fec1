/**
 * Completions for bash, zsh and fish, made of the table of commands.
 * Invariant: nothing of agentjail runs while somebody types: policies are listed here, jails are files.
 */
import { bundledNames } from '../policy/loader.js'
import { commands, groups } from './table/commands.js'
import type { CommandSpec, Completes, OptionSpec } from './table/types.js'

/** One file a jail, named by it; only who may look there sees names. */
const jailFiles = '/run/agentjail/jails'

/** `shell`: one of the choices of `agentjail completion`. */
export function completionScript(shell: string): string {
  switch (shell) {
    case 'zsh':
      return `#compdef agentjail\nautoload -U +X bashcompinit && bashcompinit\n${bashScript()}`
    case 'fish':
      return fishScript()
    default:
      return bashScript()
  }
}

function firstWords(): string[] {
  return [...new Set(commands.map(({ name }) => name.split(' ')[0] ?? ''))]
}

const shown = ({ options = [] }: CommandSpec): OptionSpec[] => [
  ...options.filter(({ hidden }) => hidden !== true),
  { name: 'help', alias: 'h', type: 'flag', describe: 'Show help' },
  { name: 'debug', type: 'flag', describe: 'On an error, show where it came from' },
]

const flagsOf = ({ name, alias }: OptionSpec): string[] => [
  `--${name}`,
  ...(alias === undefined ? [] : [`-${alias}`]),
]

/** What bash's `compgen` is asked for a value. */
function bashValue(choices: readonly string[] | undefined, kind: Completes | undefined): string {
  if (choices !== undefined) return `_agentjail_words "${choices.join(' ')}"`
  switch (kind) {
    case 'policy':
      return `_agentjail_words "${bundledNames().join(' ')}" -f`
    case 'jail':
      return '_agentjail_jails'
    case 'file':
      return '_agentjail_words "" -f'
    case undefined:
      return ':'
  }
}

function bashCommand(spec: CommandSpec): string {
  const options = shown(spec)
  const values = options
    .filter(({ type }) => type !== 'flag')
    .map(
      (option) =>
        `        ${flagsOf(option).join('|')}) ${bashValue(option.choices, option.completes)}; return ;;`,
    )
  const positional = spec.positionals?.find(({ choices, completes }) => choices ?? completes)
  return [
    `    '${spec.name}')`,
    ...(values.length === 0 ? [] : ['      case $prev in', ...values, '      esac']),
    `      [[ $cur == -* ]] && { _agentjail_words "${options.flatMap(flagsOf).join(' ')}"; return; }`,
    `      ${bashValue(positional?.choices, positional?.completes)} ;;`,
  ].join('\n')
}

function bashScript(): string {
  const names = [...groups.keys()].map((group) => {
    const below = commands.flatMap(({ name }) =>
      name.startsWith(`${group} `) ? [name.slice(group.length + 1)] : [],
    )
    return `    '${group}') _agentjail_words "${below.join(' ')}" ;;`
  })
  return `# agentjail: completions for bash, made by \`agentjail completion bash\`
_agentjail_words() {
  local words=$1; shift
  COMPREPLY=($(compgen -W "$words" "$@" -- "$cur"))
}
_agentjail_jails() {
  local file names=''
  for file in ${jailFiles}/*.json; do
    file=\${file##*/}; [[ $file == '*.json' ]] || names+=" \${file%.json}"
  done
  _agentjail_words "$names" -f
}
_agentjail() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command='' word i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if [[ $word == -- ]]; then _agentjail_words '' -c -f; return; fi
    case $command in
    '') [[ $word == -* ]] || command=$word ;;
    ${[...groups.keys()].join('|')}) [[ $word == -* ]] || command+=" $word" ;;
    esac
  done
  case $command in
    '') _agentjail_words "${firstWords().join(' ')} --help" ;;
${names.join('\n')}
${commands.map(bashCommand).join('\n')}
  esac
}
complete -o filenames -F _agentjail agentjail
`
}

/** In single quotes, as fish reads them. */
const fishText = (text: string): string =>
  `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`

function fishValue(choices: readonly string[] | undefined, kind: Completes | undefined): string {
  if (choices !== undefined) return ` -f -a ${fishText(choices.join(' '))}`
  switch (kind) {
    case 'policy':
      return ` -F -a ${fishText(bundledNames().join(' '))}`
    case 'jail':
      return ` -F -a '(__agentjail_jails)'`
    case 'file':
      return ' -F'
    case undefined:
      return ' -f'
  }
}

function fishCommand(spec: CommandSpec): string[] {
  const [first = '', second] = spec.name.split(' ')
  const given = second === undefined ? first : `${first} ${second}`
  const when = `-n ${fishText(`__agentjail_given ${given}`)}`
  const introduce =
    second === undefined
      ? `complete -c agentjail -n __agentjail_bare -f -a ${first} -d ${fishText(spec.summary)}`
      : `complete -c agentjail -n ${fishText(`__agentjail_within ${first}`)} -f -a ${second} -d ${fishText(spec.summary)}`
  const positional = spec.positionals?.find(({ choices, completes }) => choices ?? completes)
  return [
    introduce,
    ...shown(spec).map(({ name, alias, type, describe, choices, completes }) => {
      const value = type === 'flag' ? '' : ` -r${fishValue(choices, completes)}`
      const short = alias === undefined ? '' : ` -s ${alias}`
      return `complete -c agentjail ${when} -l ${name}${short}${value} -d ${fishText(describe)}`
    }),
    ...(positional === undefined
      ? []
      : [`complete -c agentjail ${when}${fishValue(positional.choices, positional.completes)}`]),
  ]
}

function fishScript(): string {
  const introduceGroups = [...groups].map(
    ([name, text]) =>
      `complete -c agentjail -n __agentjail_bare -f -a ${name} -d ${fishText(text)}`,
  )
  return `# agentjail: completions for fish, made by \`agentjail completion fish\`
function __agentjail_words
  set -l words (commandline -opc)
  for word in $words[2..-1]
    test $word = --; and break
    string match -q -- '-*' $word; or echo $word
  end
end
function __agentjail_bare
  test (count (__agentjail_words)) -eq 0
end
function __agentjail_given
  set -l words (__agentjail_words)
  set -l n (count $argv)
  test (count $words) -ge $n; and test "$words[1..$n]" = "$argv"
end
function __agentjail_within
  set -l words (__agentjail_words)
  test "$words" = "$argv"
end
function __agentjail_jails
  for file in ${jailFiles}/*.json
    basename $file .json
  end
end
complete -c agentjail -f
function __agentjail_command
  contains -- -- (commandline -opc)
end
complete -c agentjail -n __agentjail_command -F -a '(__fish_complete_command)'
${[...introduceGroups, ...commands.flatMap(fishCommand)].join('\n')}
`
}
