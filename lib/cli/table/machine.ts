/** Commands about this machine. */
import { exitCode } from '../../errors.js'
import type { CommandIo } from '../io.js'
import { always, jsonOption, policyOption } from './types.js'
import type { CommandSpec, PositionalSpec, Words } from './types.js'

const service: PositionalSpec = {
  name: 'name',
  kind: 'required',
  describe: 'The service, and its jail',
}

type ServiceAction = 'install' | 'uninstall' | 'status' | 'logs'
const runService = (action: ServiceAction) => async (words: Words, io: CommandIo) => {
  const { serviceCommand } = await import('../commands/service.js')
  return await serviceCommand(
    {
      action,
      name: words.need('name'),
      policies: words.texts('policy'),
      credentials: words.texts('credential'),
      command: words.rest(),
      print: words.flag('print'),
      lines: words.number('lines', 100),
    },
    io,
  )
}

const runAccount = (action: 'list' | 'remove') => async (words: Words, io: CommandIo) => {
  const { accountCommand } = await import('../commands/account.js')
  return await accountCommand({ action, jail: words.text('jail'), json: words.flag('json') }, io)
}

export const machineCommands: readonly CommandSpec[] = [
  {
    name: 'setup',
    summary: 'Install what is missing, and the deny at boot',
    options: [{ name: 'print', type: 'flag', describe: 'Only say what would be done' }],
    examples: [
      ['setup --print', 'Look first; needs no root'],
      ['setup', 'As root; again is harmless'],
    ],
    needsRoot: (words) => !words.flag('print'),
    run: async (words, io) => {
      const { setupCommand } = await import('../commands/setup.js')
      return await setupCommand({ print: words.flag('print') }, io)
    },
  },
  {
    name: 'doctor',
    summary: 'What this machine lacks, why it matters, and the fix',
    options: [{ name: 'fix', type: 'flag', describe: 'Repair what is safe to' }, jsonOption],
    examples: [
      ['doctor', 'Exit code 1 where something is wrong'],
      ['doctor --fix', 'As root'],
    ],
    needsRoot: (words) => words.flag('fix'),
    run: async (words, io) => {
      const { doctorCommand } = await import('../commands/doctor.js')
      return await doctorCommand({ fix: words.flag('fix'), json: words.flag('json') }, io)
    },
  },
  {
    name: 'service install',
    summary: 'A jail that starts at boot (systemd, launchd)',
    positionals: [service],
    takesCommand: true,
    options: [
      policyOption,
      {
        name: 'credential',
        type: 'texts',
        value: 'ID:FILE',
        describe: 'systemd: for credentials of the policy that are from systemd:ID',
      },
      { name: 'print', type: 'flag', describe: 'Only show the file' },
    ],
    examples: [
      ['service install bot -p openai-telegram -- node bot.js', 'It runs, now and after each boot'],
      ['service install bot -p ./p.yaml --print -- ./bot', 'The unit, and nothing done'],
    ],
    needsRoot: (words) => !words.flag('print'),
    run: runService('install'),
  },
  {
    name: 'service uninstall',
    summary: 'Stop such a jail and take it away',
    positionals: [service],
    examples: [['service uninstall bot', 'Its log and its account stay']],
    needsRoot: always,
    run: runService('uninstall'),
  },
  {
    name: 'service status',
    summary: 'Whether such a jail runs',
    positionals: [service],
    examples: [['service status bot', 'Exit code 3 when it does not run']],
    run: runService('status'),
  },
  {
    name: 'service logs',
    summary: 'What its command printed',
    positionals: [service],
    options: [{ name: 'lines', type: 'number', value: 'N', default: 100, describe: 'How many' }],
    examples: [['service logs bot --lines 20', 'The last ones']],
    run: runService('logs'),
  },
  {
    name: 'account list',
    summary: 'The service users',
    options: [jsonOption],
    examples: [['account list', 'Which jail each belongs to']],
    needsRoot: always,
    run: runAccount('list'),
  },
  {
    name: 'account remove',
    summary: 'Remove a service user with its home',
    positionals: [{ name: 'jail', kind: 'required', describe: 'The jail whose user it is' }],
    examples: [['account remove my-bot', 'Refused while the jail runs']],
    needsRoot: always,
    run: runAccount('remove'),
  },
  {
    name: 'gc',
    summary: 'Clear what dead jails left (every command does it, too)',
    options: [jsonOption],
    examples: [['gc', 'Says what it cleared']],
    needsRoot: always,
    run: async (words, io) => {
      const { gcCommand } = await import('../commands/gc.js')
      return await gcCommand({ json: words.flag('json') }, io)
    },
  },
  {
    name: 'uninstall',
    summary: 'Take away everything agentjail put on this machine',
    options: [{ name: 'purge', type: 'flag', describe: 'Logs and configuration too' }],
    examples: [['uninstall --purge', 'Nothing is left but packages']],
    needsRoot: always,
    run: async (words, io) => {
      const { uninstallCommand } = await import('../commands/uninstall.js')
      return await uninstallCommand({ purge: words.flag('purge') }, io)
    },
  },
  {
    name: 'completion',
    summary: 'Print the completions for a shell',
    positionals: [
      {
        name: 'shell',
        kind: 'required',
        choices: ['bash', 'zsh', 'fish'],
        describe: 'Which shell',
      },
    ],
    examples: [
      ['completion bash > /etc/bash_completion.d/agentjail', 'For all users'],
      ['completion fish | source', 'For this shell'],
    ],
    run: async (words, io) => {
      const { completionScript } = await import('../completion.js')
      io.stdout.write(completionScript(words.need('shell')))
      return exitCode.ok
    },
  },
  {
    name: 'version',
    summary: 'Print the version (as --version does)',
    examples: [['version', '']],
    run: async (_words, io) => {
      const { readFile } = await import('node:fs/promises')
      const { packageRoot } = await import('../../session/host.js')
      const text = await readFile(`${packageRoot}/package.json`, 'utf8')
      io.stdout.write(`${(JSON.parse(text) as { version: string }).version}\n`)
      return exitCode.ok
    },
  },
]
