/** Commands that start something in a jail. */
import { JailError } from '../../errors.js'
import { backendChoices } from '../../session/backend-choice.js'
import { jsonOption, policyOption } from './types.js'
import type { CommandSpec, OptionSpec, Words } from './types.js'

const isolations = ['namespace', 'uid', 'basic'] as const

const isolation: OptionSpec = {
  name: 'isolation',
  type: 'text',
  value: 'HOW',
  choices: isolations,
  describe: "How it is held [the policy's, or namespace]",
}

const name: OptionSpec = {
  name: 'name',
  alias: 'n',
  type: 'text',
  value: 'NAME',
  describe: "The jail's name [the policy's]",
}

const planOptions: readonly OptionSpec[] = [
  policyOption,
  name,
  {
    name: 'user',
    type: 'text',
    value: 'USER',
    describe: 'Service user to use or make [aj-NAME]',
  },
  isolation,
  {
    name: 'backend',
    type: 'text',
    value: 'FIREWALL',
    choices: backendChoices,
    describe: 'Which firewall holds it [nftables, or iptables where nft is missing]',
  },
  { ...jsonOption, describe: 'Print the plan as JSON (run: with --dry-run)' },
]

const planWords = (words: Words) => ({
  policy: words.texts('policy'),
  name: words.text('name'),
  user: words.text('user'),
  isolation: words.choice('isolation', isolations),
  backend: words.choice('backend', backendChoices),
  json: words.flag('json'),
  argv: words.argv,
  script: words.script,
})

function needPolicy(words: Words): void {
  if (words.texts('policy').length > 0) return
  throw new JailError('USAGE', 'no policy is given', {
    hint: 'for example: agentjail run --policy openai -- node bot.js',
  })
}

export const runCommands: readonly CommandSpec[] = [
  {
    name: 'run',
    summary: 'Run a command in a jail',
    details:
      'The command runs as a service user of its own, with the network that the policy grants and no other. Its standard streams, terminal, signals and exit code are its own. Started by an ordinary user, agentjail asks sudo once.',
    takesCommand: true,
    options: [
      ...planOptions,
      { name: 'dry-run', type: 'flag', describe: 'Print what would happen, and do nothing' },
      { name: 'quiet', alias: 'q', type: 'flag', describe: 'No summary, no live denials' },
      {
        name: 'show-denials',
        type: 'flag',
        describe: 'Tell each denial as it happens [on a terminal]',
      },
      {
        name: 'container',
        type: 'text',
        value: 'IMAGE',
        describe: 'Run it in the files of this image (podman or docker has it)',
        conflicts: ['join'],
      },
      {
        name: 'join',
        type: 'text',
        value: 'NAME',
        completes: 'jail',
        describe: 'Run it in a jail that runs already, under its policy',
        conflicts: ['policy', 'name', 'user', 'isolation'],
      },
    ],
    examples: [
      ['run -p openai-telegram -- node bot.js', 'A bot that reaches two services'],
      ['run -p npm -p github -- npm install', 'Two policies joined'],
      ['run -p ./policy.yaml --dry-run -- true', 'What would happen'],
      ['run --join my-bot -- curl https://a.example', 'In a jail that runs'],
    ],
    epilogue:
      'Exit code: that of the command; 125 if it was not launched, 126/127 as a shell, 2 for bad input.',
    run: async (words, io) => {
      const join = words.text('join')
      if (words.flag('json') && !words.flag('dry-run'))
        throw new JailError('USAGE', '--json is the form of a plan: it goes with --dry-run', {
          hint: 'what a run allowed and denied: agentjail logs NAME --json',
        })
      if (join === undefined) needPolicy(words)
      const { runCommand } = await import('../commands/run.js')
      return await runCommand(
        {
          ...planWords(words),
          join,
          container: words.text('container'),
          command: words.command(),
          dryRun: words.flag('dry-run'),
          quiet: words.flag('quiet'),
          showDenials: words.maybe('show-denials'),
        },
        io,
      )
    },
  },
  {
    name: 'plan',
    summary: 'Print what `run` would do: account, rules, DNS, launch',
    takesCommand: true,
    options: planOptions,
    examples: [
      ['plan -p openai', 'Rules as they would be loaded'],
      ['plan -p ./policy.yaml --json', 'The same for programs'],
    ],
    run: async (words, io) => {
      needPolicy(words)
      const { runCommand } = await import('../commands/run.js')
      const [first = 'true', ...rest] = words.rest()
      const request = { command: [first, ...rest], dryRun: true, quiet: true } as const
      return await runCommand({ ...planWords(words), ...request }, io)
    },
  },
  {
    name: 'learn',
    summary: 'Run a command with everything public open, and write the policy it needs',
    details:
      'Private networks and metadata addresses stay closed. Never for a command that you do not trust: what it reaches while it is watched, it reaches.',
    takesCommand: true,
    options: [
      {
        name: 'output',
        alias: 'o',
        type: 'text',
        value: 'FILE',
        completes: 'file',
        default: './agentjail.yaml',
        describe: 'The policy file to make',
      },
      { ...policyOption, describe: 'Start from these; only what is beyond them is learned' },
      { ...name, describe: "The jail's name" },
      { name: 'http', type: 'flag', describe: 'Look into requests, and write methods and paths' },
      {
        name: 'env',
        alias: 'e',
        type: 'texts',
        value: 'NAME',
        describe: 'A variable of yours that the command needs',
      },
    ],
    examples: [
      ['learn -o bot.yaml -- node bot.js', 'Then: agentjail run -p ./bot.yaml -- node bot.js'],
      ['learn --http -e OPENAI_API_KEY -- node bot.js', 'Methods and paths too'],
    ],
    epilogue: 'Private networks and metadata addresses stay closed.',
    run: async (words, io) => {
      const { learnCommand } = await import('../commands/learn.js')
      return await learnCommand(
        {
          command: words.command(),
          output: words.need('output'),
          policy: words.texts('policy'),
          name: words.text('name'),
          http: words.flag('http'),
          env: words.texts('env'),
          argv: words.argv,
          script: words.script,
        },
        io,
      )
    },
  },
  {
    name: 'verify',
    summary: 'Try to get out: the battery of escapes, in a jail of its own',
    options: [
      { ...policyOption, describe: 'Bundled policy or file [openai-telegram]' },
      isolation,
      { name: 'without', type: 'texts', value: 'PIECE', describe: 'For tests', hidden: true },
      jsonOption,
    ],
    examples: [
      ['verify', 'Everything should say closed'],
      ['verify -p ./policy.yaml --isolation uid', 'Under a policy of yours'],
    ],
    epilogue: 'Exit code: 0 if nothing is open but what docs/known-issues.md names, else 1.',
    run: async (words, io) => {
      const { verifyCommand } = await import('../commands/verify.js')
      const policy = words.texts('policy')
      return await verifyCommand(
        {
          policy: policy.length > 0 ? policy : ['openai-telegram'],
          isolation: words.choice('isolation', isolations),
          json: words.flag('json'),
          without: words.texts('without'),
          argv: words.argv,
          script: words.script,
        },
        io,
      )
    },
  },
]
