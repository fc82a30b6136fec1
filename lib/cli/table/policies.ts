/** Commands about policies. */
import { jsonOption } from './types.js'
import type { CommandSpec, PositionalSpec, Words } from './types.js'
import type { CommandIo } from '../io.js'

const names: PositionalSpec = {
  name: 'names',
  kind: 'several',
  completes: 'policy',
  describe: 'Bundled policies or files',
}

const run = (action: 'list' | 'show' | 'check') => async (words: Words, io: CommandIo) => {
  const { policyCommand } = await import('../commands/policy.js')
  const [json, yaml] = [words.flag('json'), words.flag('yaml')]
  return await policyCommand({ action, names: words.texts('names'), json, yaml }, io)
}

export const policyCommands: readonly CommandSpec[] = [
  {
    name: 'policy list',
    summary: 'The bundled policies',
    options: [jsonOption],
    examples: [['policy list', 'Names and what each is for']],
    run: run('list'),
  },
  {
    name: 'policy show',
    summary: 'What policies grant together',
    positionals: [names],
    options: [jsonOption, { name: 'yaml', type: 'flag', describe: 'As one policy file' }],
    examples: [
      ['policy show openai-telegram', 'In words'],
      ['policy show npm github --yaml > own.yaml', 'A start for your own'],
    ],
    run: run('show'),
  },
  {
    name: 'policy check',
    summary: 'Every mistake of policy files, at its line and column',
    positionals: [names],
    options: [jsonOption],
    examples: [['policy check ./policy.yaml', 'Exit code 2 on any mistake']],
    run: run('check'),
  },
]
