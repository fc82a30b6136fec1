/**
 * The table of commands.
 */
import yargs from 'yargs'
import type { Argv } from 'yargs'
import { exitCode, JailError } from '../errors.js'
import type { Ending } from '../launch/types.js'
import { backendChoices } from '../session/backend-choice.js'
import type { CommandIo } from './io.js'

const isolations = ['namespace', 'uid', 'basic'] as const

/** Parses and runs; resolves with how to end, `undefined` for help. Throws USAGE and what commands throw. */
export async function parse(argv: readonly string[]): Promise<Ending | undefined> {
  const io: CommandIo = { stdout: process.stdout, stderr: process.stderr, env: process.env }
  let ending: Ending | undefined
  const finish = (code: number): void => {
    ending = { code }
  }
  const finishLike = (end: Ending): void => {
    ending = end
  }
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
    .exitProcess(false)
    .fail((message: string | null, error: unknown) => {
      // A message is yargs' own, of words it cannot place; without one it is what a command threw.
      if (error instanceof JailError || message === null || message === '') throw error
      const hint = 'see: agentjail --help'
      throw new JailError('USAGE', lowerFirst(message.replaceAll('\n', ' ')), { hint })
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
    .wrap(Math.min(100, process.stdout.columns || 100))
  runCommands(table, argv, io, finishLike)
  adminCommands(table, io, finish)
  await table.parseAsync(argv)
  return ending
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1)
}

function withRunOptions(table: Argv, isPolicyNeeded: boolean) {
  return table
    .option('policy', {
      alias: 'p',
      type: 'string',
      array: true,
      nargs: 1,
      demandOption: isPolicyNeeded,
      describe: 'Bundled policy or file; several are joined',
    })
    .option('name', { alias: 'n', type: 'string', describe: "The jail's name [the policy's]" })
    .option('user', { type: 'string', describe: 'Service user to use or make [aj-NAME]' })
    .option('isolation', {
      choices: isolations,
      describe: "How it is held [the policy's, or namespace]",
    })
    .option('backend', {
      choices: backendChoices,
      describe: 'Which firewall holds it [nftables, or iptables where nft is missing]',
    })
    .option('json', { type: 'boolean', default: false, describe: 'Print the plan as JSON' })
}

function runCommands(
  table: Argv,
  argv: readonly string[],
  io: CommandIo,
  finish: (ending: Ending) => void,
): void {
  table.command(
    'run',
    'Run a command in a jail: agentjail run --policy P -- COMMAND',
    (sub) =>
      withRunOptions(sub, false)
        .option('dry-run', {
          type: 'boolean',
          default: false,
          describe: 'Print what would happen, and do nothing',
        })
        .option('quiet', {
          alias: 'q',
          type: 'boolean',
          default: false,
          describe: 'No summary, no live denials',
        })
        .option('show-denials', {
          type: 'boolean',
          describe: 'Tell each denial as it happens [on a terminal]',
        })
        .option('join', {
          type: 'string',
          describe: 'Run it in a jail that runs already, under its policy',
          conflicts: ['policy', 'name', 'user', 'isolation'],
        })
        .example(
          '$0 run --policy openai-telegram -- node bot.js',
          'A bot that reaches two services and nothing else',
        )
        .example('$0 run -p npm -p github -- npm install', 'Two policies joined')
        .example('$0 run -p ./policy.yaml --dry-run -- true', 'What would happen')
        .epilogue(
          'Exit code: that of the command; 125 if it was not launched, 126/127 as a shell, 2 for bad input.',
        ),
    async (args) => {
      if (args.policy === undefined && args.join === undefined) {
        throw new JailError('USAGE', 'missing required argument: policy', {
          hint: 'for example: agentjail run --policy openai -- node bot.js',
        })
      }
      const { runCommand } = await import('./commands/run.js')
      finish(
        await runCommand(
          {
            policy: args.policy ?? [],
            join: args.join,
            command: commandOf(args),
            name: args.name,
            user: args.user,
            isolation: args.isolation,
            backend: args.backend,
            dryRun: args['dry-run'],
            json: args.json,
            quiet: args.quiet,
            showDenials: args['show-denials'],
            argv,
            script: process.argv[1] ?? '',
          },
          io,
        ),
      )
    },
  )
  table.command(
    'learn',
    'Run a command with everything public open, and write the policy it needs',
    (sub) =>
      sub
        .option('output', {
          alias: 'o',
          type: 'string',
          default: './agentjail.yaml',
          describe: 'The policy file to make',
        })
        .option('policy', {
          alias: 'p',
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          describe: 'Start from these; only what is beyond them is learned',
        })
        .option('name', { alias: 'n', type: 'string', describe: "The jail's name" })
        .option('http', {
          type: 'boolean',
          default: false,
          describe: 'Look into requests, and write methods and paths',
        })
        .option('env', {
          alias: 'e',
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          describe: 'A variable of yours that the command needs',
        })
        .example('$0 learn -o bot.yaml -e OPENAI_API_KEY -- node bot.js', 'Then: run -p ./bot.yaml')
        .epilogue('Private networks and metadata addresses stay closed.'),
    async (args) => {
      const { learnCommand } = await import('./commands/learn.js')
      finish(
        await learnCommand(
          {
            command: commandOf(args),
            output: args.output,
            policy: args.policy,
            name: args.name,
            http: args.http,
            env: args.env,
            argv,
            script: process.argv[1] ?? '',
          },
          io,
        ),
      )
    },
  )
  table.command(
    'plan',
    'Print what `run` would do: account, rules, DNS, launch',
    (sub) =>
      withRunOptions(sub, true).example('$0 plan --policy openai', 'Rules as they would be loaded'),
    async (args) => {
      const { runCommand } = await import('./commands/run.js')
      const words = wordsAfter(args)
      const command: [string, ...string[]] =
        words[0] === undefined ? ['true'] : [words[0], ...words.slice(1)]
      finish(
        await runCommand(
          {
            policy: args.policy ?? [],
            command,
            name: args.name,
            user: args.user,
            isolation: args.isolation,
            backend: args.backend,
            dryRun: true,
            json: args.json,
            quiet: true,
            argv,
            script: process.argv[1] ?? '',
          },
          io,
        ),
      )
    },
  )
  table.command(
    'verify',
    'Try to get out: the battery of escapes, in a jail of its own',
    (sub) =>
      sub
        .option('policy', {
          alias: 'p',
          type: 'string',
          array: true,
          nargs: 1,
          default: ['openai-telegram'],
          describe: 'Bundled policy or file; several are joined',
        })
        .option('isolation', {
          choices: isolations,
          describe: "How it is held [the policy's, or namespace]",
        })
        .option('without', {
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          hidden: true,
        })
        .option('json', { type: 'boolean', default: false })
        .epilogue('Exit code: 0 if nothing is open but what docs/known-issues.md names, else 1.'),
    async (args) => {
      const { verifyCommand } = await import('./commands/verify.js')
      finish(
        await verifyCommand(
          {
            policy: args.policy,
            isolation: args.isolation,
            json: args.json,
            without: args.without,
            argv,
            script: process.argv[1] ?? '',
          },
          io,
        ),
      )
    },
  )
}

function wordsAfter(args: object): string[] {
  const words: unknown = (args as Record<string, unknown>)['--']
  return Array.isArray(words) ? words.map(String) : []
}

function commandOf(args: object): [string, ...string[]] {
  const [first, ...rest] = wordsAfter(args)
  if (first === undefined || first === '') {
    throw new JailError('USAGE', 'no command after --', {
      hint: 'for example: agentjail run --policy openai -- node bot.js',
    })
  }
  return [first, ...rest]
}

function adminCommands(table: Argv, io: CommandIo, finish: (code: number) => void): void {
  table.command(
    'account <action> [jail]',
    'Service users: list, or remove one with its home',
    (sub) =>
      sub
        .positional('action', { choices: ['list', 'remove'] as const, demandOption: true })
        .positional('jail', { type: 'string' })
        .option('json', { type: 'boolean', default: false }),
    async ({ action, jail, json }) => {
      const { accountCommand } = await import('./commands/account.js')
      finish(await accountCommand({ action, jail, json }, io))
    },
  )
  table.command(
    'policy <action> [names..]',
    'Bundled policies: list; show what one grants; check files',
    (sub) =>
      sub
        .positional('action', { choices: ['list', 'show', 'check'] as const, demandOption: true })
        .positional('names', { type: 'string', array: true, default: [] as string[] })
        .option('json', { type: 'boolean', default: false })
        .option('yaml', { type: 'boolean', default: false, describe: 'show: as one policy file' })
        .example('$0 policy check ./policy.yaml', 'Every mistake, at its line and column'),
    async ({ action, names, json, yaml }) => {
      const { policyCommand } = await import('./commands/policy.js')
      finish(await policyCommand({ action, names, json, yaml }, io))
    },
  )
  table.command(
    'reload <name>',
    'Put an edited policy in force in a running jail',
    (sub) =>
      sub.positional('name', { type: 'string', demandOption: true }).option('policy', {
        alias: 'p',
        type: 'string',
        array: true,
        nargs: 1,
        describe: 'Another policy [the one it runs with]',
      }),
    async ({ name, policy }) => {
      const { reloadCommand } = await import('./commands/reload.js')
      finish(await reloadCommand({ name, policy }, io))
    },
  )
  table.command(
    'allow <name> <destinations..>',
    'Open destinations in a running jail, or in a policy file',
    (sub) =>
      sub
        .positional('name', { type: 'string', demandOption: true })
        .positional('destinations', {
          type: 'string',
          array: true,
          demandOption: true,
          describe: 'HOST, HOST:PORT, localhost:PORT, or an address; /udp after it for UDP',
        })
        .option('save', {
          type: 'boolean',
          default: false,
          describe: 'Write it into the policy file too',
        })
        .example('$0 allow my-bot api.example.com', 'TCP 443 of that name')
        .example('$0 allow my-bot db.example.com:5432 --save', 'Another port, and for good')
        .example('$0 allow ./policy.yaml api.example.com', 'In a policy file, before a run'),
    async ({ name, destinations, save }) => {
      const { allowCommand } = await import('./commands/allow.js')
      finish(await allowCommand({ name, destinations, save }, io))
    },
  )
  table.command(
    'deny <name> <destination>',
    'Close a destination in a running jail, and cut its connections',
    (sub) =>
      sub
        .positional('name', { type: 'string', demandOption: true })
        .positional('destination', { type: 'string', demandOption: true })
        .example('$0 deny my-bot api.example.com', 'On every port'),
    async ({ name, destination }) => {
      const { denyCommand } = await import('./commands/deny.js')
      finish(await denyCommand({ name, destination }, io))
    },
  )
  table.command(
    'stop <name>',
    'End a jail: SIGTERM to its command, SIGKILL five seconds later',
    (sub) => sub.positional('name', { type: 'string', demandOption: true }),
    async ({ name }) => {
      const { stopCommand } = await import('./commands/stop.js')
      finish(await stopCommand(name, io))
    },
  )
  table.command(
    'status',
    'All jails that run',
    (sub) =>
      sub
        .option('watch', { alias: 'w', type: 'boolean', default: false })
        .option('json', { type: 'boolean', default: false }),
    async ({ watch, json }) => {
      const { statusCommand } = await import('./commands/status.js')
      const { readStatus } = await import('../session/status.js')
      finish(await statusCommand({ watch, json }, io, readStatus))
    },
  )
  table.command(
    'logs [name]',
    'What was allowed and denied',
    (sub) =>
      sub
        .positional('name', { type: 'string' })
        .option('follow', { alias: 'f', type: 'boolean', default: false })
        .option('denied', { type: 'boolean', default: false, describe: 'Denials only' })
        .option('since', { type: 'string', describe: '10m, 2h, or a time' })
        .option('json', { type: 'boolean', default: false }),
    async ({ name, follow, denied, since, json }) => {
      const { logsCommand } = await import('./commands/logs.js')
      finish(
        await logsCommand(
          {
            follow,
            denied,
            json,
            ...(name === undefined ? {} : { name }),
            ...(since === undefined ? {} : { since }),
          },
          io,
        ),
      )
    },
  )
  table.command(
    'setup',
    'Install what is missing, and the deny at boot',
    (sub) =>
      sub.option('print', {
        type: 'boolean',
        default: false,
        describe: 'Only say what would be done',
      }),
    async ({ print }) => {
      const { setupCommand } = await import('./commands/setup.js')
      finish(await setupCommand({ print }, io))
    },
  )
  table.command(
    'service <action> <name>',
    'A jail that starts at boot: install, uninstall, status, logs',
    (sub) =>
      sub
        .positional('action', {
          choices: ['install', 'uninstall', 'status', 'logs'] as const,
          demandOption: true,
        })
        .positional('name', { type: 'string', demandOption: true })
        .option('policy', {
          alias: 'p',
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
        })
        .option('credential', {
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          describe: 'systemd: ID:FILE, for credentials of the policy that are from systemd:ID',
        })
        .option('print', {
          type: 'boolean',
          default: false,
          describe: 'install: only show the file',
        })
        .option('lines', { type: 'number', default: 100, describe: 'logs: how many' })
        .example('$0 service install bot --policy openai-telegram -- node bot.js', ''),
    async ({ action, name, policy, credential, print, lines, '--': rest }) => {
      const { serviceCommand } = await import('./commands/service.js')
      const command = (rest ?? []) as string[]
      const options = { policies: policy, credentials: credential, command, print, lines }
      finish(await serviceCommand({ action, name, ...options }, io))
    },
  )
  table.command(
    'doctor',
    'What this machine lacks, why it matters, and the fix',
    (sub) =>
      sub
        .option('fix', { type: 'boolean', default: false, describe: 'Repair what is safe to' })
        .option('json', { type: 'boolean', default: false }),
    async ({ fix, json }) => {
      const { doctorCommand } = await import('./commands/doctor.js')
      finish(await doctorCommand({ fix, json }, io))
    },
  )
  table.command(
    'uninstall',
    'Take away everything agentjail put on this machine',
    (sub) =>
      sub.option('purge', {
        type: 'boolean',
        default: false,
        describe: 'Logs and configuration too',
      }),
    async ({ purge }) => {
      const { uninstallCommand } = await import('./commands/uninstall.js')
      finish(await uninstallCommand({ purge }, io))
    },
  )
  table.command(
    'gc',
    'Clear what dead jails left (every command does it, too)',
    (sub) => sub.option('json', { type: 'boolean', default: false }),
    async ({ json }) => {
      const { gcCommand } = await import('./commands/gc.js')
      finish(await gcCommand({ json }, io))
    },
  )
  table.command(
    'version',
    'Print the version',
    (sub) => sub,
    async () => {
      const { readFile } = await import('node:fs/promises')
      const { packageRoot } = await import('../session/host.js')
      const { version } = JSON.parse(await readFile(`${packageRoot}/package.json`, 'utf8')) as {
        version: string
      }
      io.stdout.write(`${version}\n`)
      finish(exitCode.ok)
    },
  )
}
