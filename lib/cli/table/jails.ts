/** Commands about jails that run, and what they did. */
import { isPath } from '../../policy/ref.js'
import { always, jsonOption, policyOption, runningJail } from './types.js'
import type { CommandSpec } from './types.js'

export const jailCommands: readonly CommandSpec[] = [
  {
    name: 'status',
    summary: 'All jails that run',
    options: [
      { name: 'watch', alias: 'w', type: 'flag', describe: 'Again every two seconds' },
      jsonOption,
    ],
    examples: [
      ['status', 'Once'],
      ['status --watch', 'Until Ctrl-C'],
      ['status --json | jq -r .[].name', 'For programs'],
    ],
    needsRoot: always,
    run: async (words, io) => {
      const { statusCommand } = await import('../commands/status.js')
      const { readStatus } = await import('../../session/status.js')
      const args = { watch: words.flag('watch'), json: words.flag('json') }
      return await statusCommand(args, io, readStatus)
    },
  },
  {
    name: 'logs',
    summary: 'What was allowed and denied',
    positionals: [
      { name: 'name', kind: 'optional', completes: 'jail', describe: 'One jail only [all]' },
    ],
    options: [
      { name: 'follow', alias: 'f', type: 'flag', describe: 'Go on as more comes' },
      { name: 'denied', type: 'flag', describe: 'Denials only' },
      { name: 'since', type: 'text', value: 'WHEN', describe: '10m, 2h, 7d ago, or a time' },
      jsonOption,
    ],
    examples: [
      ['logs my-bot --denied --since 10m', 'What was kept out lately'],
      ['logs --follow', 'All jails, as it happens'],
    ],
    needsRoot: always,
    run: async (words, io) => {
      const { logsCommand } = await import('../commands/logs.js')
      const [name, since] = [words.text('name'), words.text('since')]
      return await logsCommand(
        {
          follow: words.flag('follow'),
          denied: words.flag('denied'),
          json: words.flag('json'),
          ...(name === undefined ? {} : { name }),
          ...(since === undefined ? {} : { since }),
        },
        io,
      )
    },
  },
  {
    name: 'allow',
    summary: 'Open destinations in a running jail, or in a policy file',
    positionals: [
      { ...runningJail, describe: 'A running jail, or the path of a policy file' },
      {
        name: 'destinations',
        kind: 'several',
        describe: 'HOST, HOST:PORT, localhost:PORT, or an address; /udp after it for UDP',
      },
    ],
    options: [{ name: 'save', type: 'flag', describe: 'Write it into the policy file too' }],
    examples: [
      ['allow my-bot api.example.com', 'TCP 443 of that name, for this run'],
      ['allow my-bot db.example.com:5432 --save', 'Another port, and for good'],
      ['allow ./policy.yaml api.example.com', 'In a policy file, before a run'],
    ],
    needsRoot: (words) => !isPath(words.need('name')),
    run: async (words, io) => {
      const { allowCommand } = await import('../commands/allow.js')
      const destinations = words.texts('destinations')
      return await allowCommand(
        { name: words.need('name'), destinations, save: words.flag('save') },
        io,
      )
    },
  },
  {
    name: 'deny',
    summary: 'Close a destination in a running jail, and cut its connections',
    positionals: [
      runningJail,
      { name: 'destination', kind: 'required', describe: 'As for allow; no port: every port' },
    ],
    examples: [['deny my-bot api.example.com', 'On every port, for this run']],
    needsRoot: always,
    run: async (words, io) => {
      const { denyCommand } = await import('../commands/deny.js')
      const args = { name: words.need('name'), destination: words.need('destination') }
      return await denyCommand(args, io)
    },
  },
  {
    name: 'reload',
    summary: 'Put an edited policy in force in a running jail',
    positionals: [runningJail],
    options: [{ ...policyOption, describe: 'Another policy [the one it runs with]' }],
    examples: [['reload my-bot', 'After an edit of its policy file']],
    needsRoot: always,
    run: async (words, io) => {
      const { reloadCommand } = await import('../commands/reload.js')
      const policy = words.texts('policy')
      const args = { name: words.need('name'), policy: policy.length > 0 ? policy : undefined }
      return await reloadCommand(args, io)
    },
  },
  {
    name: 'stop',
    summary: 'End a jail: SIGTERM to its command, SIGKILL five seconds later',
    positionals: [runningJail],
    examples: [['stop my-bot', 'Returns when nothing of it is left']],
    needsRoot: always,
    run: async (words, io) => {
      const { stopCommand } = await import('../commands/stop.js')
      return await stopCommand(words.need('name'), io)
    },
  },
]
