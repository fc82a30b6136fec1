/**
 * How long a launch takes, against other launchers, in turn within each round.
 * Invariant: a launcher that did not run the command is no figure.
 */
import { createLab } from '../test/lab/lab.js'
import { agentjailPath } from '../test/lab/paths.js'
import { currentLoad } from './machine.js'
import { barePlace, labPlace } from './places.js'
import { findRivals, makeEmptyScript, type Rival } from './rivals.js'
import { digits, median, medianRatio, quantile } from './statistics.js'
import { barPlot } from './svg.js'
import type { Options, Part } from './types.js'

const empty = 'an empty Node script'

const run = (name: string, policy: string, ...options: readonly string[]) => ({
  name: ['agentjail', ...options].join(' '),
  at: 'lab' as const,
  argv: (command: readonly string[]): readonly [string, ...string[]] => [
    process.execPath,
    ...[agentjailPath, 'run', '-p', policy, '-q', '--name', name, ...options, '--', ...command],
  ],
})
/** Those that the bars are about. */
const judged = [
  run('bench-namespace', 'openai'),
  run('bench-uid', 'openai', '--isolation', 'uid'),
] satisfies Rival[]
const ownPolicy = '/etc/agentjail-bench.yaml'
const keyed = run('bench-key', 'openai')
const launchers: Rival[] = [
  ...judged,
  { ...run('bench-own', ownPolicy), name: 'agentjail, a policy file of one\u2019s own' },
  {
    ...keyed,
    name: 'agentjail, a key that the gate compares',
    argv: (command) => ['/usr/bin/env', 'OPENAI_API_KEY=sk-bench', ...keyed.argv(command)],
  },
]

interface Samples {
  readonly wall: number[]
  readonly first: number[]
}

export async function start({ quick }: Options): Promise<Part> {
  const rounds = quick ? 4 : 9
  const rivals = [...launchers, ...findRivals(makeEmptyScript())]
  const missing = rivals.filter(({ argv }) => argv === undefined).map(({ name }) => name)
  const failed = new Map<string, string>()
  const samples = new Map<string, Samples>()
  const loads: number[] = []
  const lab = await createLab()
  const places = { lab: labPlace(lab), bare: barePlace() }
  try {
    await lab.run(['mkdir', '-p', '/srv/bench'])
    lab.writeFile(ownPolicy, 'version: 1\nname: own\nnetwork:\n  allow:\n    - api.example.com\n')
    // The first round warms up, and makes accounts.
    for (let round = -1; round < rounds; round++) {
      for (const { name, argv, at } of rivals) {
        if (argv === undefined || failed.has(name)) continue
        const cwd = at === 'lab' ? '/srv/bench' : '/usr'
        const whole = await places[at].time(argv(['/usr/bin/true']), cwd)
        const first = await places[at].time(argv(['/usr/bin/date', '+%s%N']), cwd)
        const printed = name === empty || first.stdout.trim() !== ''
        if (whole.code !== 0 || first.code !== 0 || !printed) {
          failed.set(name, `code ${String(whole.code)}: ${whole.stderr}${first.stderr}`.trim())
          continue
        }
        if (round < 0) continue
        const so = samples.get(name) ?? { wall: [], first: [] }
        samples.set(name, so)
        so.wall.push(whole.ms)
        so.first.push(name === empty ? whole.ms : first.first)
      }
      loads.push(currentLoad())
    }
  } finally {
    places.lab.end()
    places.bare.end()
    await lab.close()
  }
  const wall = (name: string): number[] => samples.get(name)?.wall ?? []
  const first = (name: string): number[] => samples.get(name)?.first ?? []
  const bars = judged.flatMap(({ name }) => [
    {
      text: `start of \`true\` by ${name}, over srt's`,
      figure: medianRatio(wall(name), wall('srt')),
      limit: 0.25,
      unit: 'x',
      sense: 'at most' as const,
    },
    {
      text: `start of \`true\` by ${name}, over firejail's with its default profile`,
      figure: medianRatio(wall(name), wall('firejail, default profile')),
      limit: 1.3,
      unit: 'x',
      sense: 'at most' as const,
    },
    {
      text: `first instruction of the command under ${name}, over an empty Node script`,
      figure: medianRatio(first(name), first(empty)),
      limit: 2,
      unit: 'x',
      sense: 'at most' as const,
    },
  ])
  return {
    title: 'Start',
    bars,
    tables: [
      {
        title: `Launch \`true\`, warm, as root: wall ms over ${rounds} interleaved rounds`,
        head: ['launcher', 'median', 'p10-p90', 'first instruction, median'],
        rows: [...samples].map(([name, so]) => [
          name,
          digits(median(so.wall)),
          `${digits(quantile(so.wall, 0.1))}-${digits(quantile(so.wall, 0.9))}`,
          name === empty ? '' : digits(median(so.first)),
        ]),
      },
    ],
    plots: [
      {
        name: 'start',
        svg: barPlot(
          'Launch /usr/bin/true: wall, median',
          'ms',
          [...samples].map(([name, so]) => [name, median(so.wall)]),
        ),
      },
    ],
    missing: [...missing, ...[...failed].map(([name, why]) => `${name} (${why})`)],
    notes: [`one-minute load during the rounds: ${digits(median(loads))} (median)`],
    raw: { rounds, loads, samples: Object.fromEntries(samples) },
  }
}
