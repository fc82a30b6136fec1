/** What running jails cost: others' traffic, a granted flow straight through the kernel, a refusal. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { digits, median, medianRatio } from './statistics.js'
import { linePlot } from './svg.js'
import type { Bar, Options, Part } from './types.js'

/** Tables to compare with: what a table costs that does nothing. */
const floors = {
  hook: 'one empty chain, in one hook',
  namespace: 'another user, jails in isolation namespace',
  tracked: 'empty chains in the hooks of isolation uid, and connections tracked',
} as const

/** Grants of one jail; the packets that are measured fit the last. */
const grantCounts = [1, 10, 100] as const

interface Report {
  readonly counts: readonly number[]
  readonly samples: Readonly<Record<string, readonly number[]>>
}

/** A namespace for each number of jails, asked in turn: installing a thousand takes longer than measuring. */
async function measureAll(quick: boolean): Promise<Report> {
  const inside = fileURLToPath(new URL('steady-inside.js', import.meta.url))
  const counts = quick ? [0, 10, 100] : [0, 10, 100, 1000]
  const rounds = quick ? 2 : 24
  const seconds = '0.15'
  const places = new Map<string, (words: string) => Promise<number>>()
  const children: ChildProcess[] = []
  const samples: Record<string, number[]> = {}
  try {
    const byGrants = grantCounts.map((grants) => `1 ${grants}`)
    for (const which of [...Object.keys(floors), ...counts.map(String), ...byGrants]) {
      const child = spawn(
        '/usr/bin/setpriv',
        [
          ...['--pdeathsig', 'KILL', 'unshare', '--net', '--pid', '--fork', '--kill-child'],
          ...['--mount-proc', process.execPath, inside, ...which.split(' ')],
        ],
        { stdio: ['pipe', 'pipe', 'inherit'] },
      )
      children.push(child)
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
      if ((await lines.next()).value !== 'ready')
        throw new Error(`no namespace with ${which} jails`)
      places.set(which, async (words) => {
        child.stdin.write(`${words}\n`)
        return Number((await lines.next()).value)
      })
    }
    const ask = async (key: string, which: string, words: string): Promise<void> => {
      ;(samples[key] ??= []).push((await places.get(which)?.(words)) ?? NaN)
    }
    const most = String(counts.at(-1))
    for (let round = 0; round < rounds; round++) {
      for (const mode of ['udp', 'connects', 'bytes']) {
        for (const which of Object.keys(floors))
          await ask(`${which} ${mode}`, which, `${mode} ${seconds} 65000 9000`)
        for (const jails of counts)
          await ask(`other ${mode} ${jails}`, String(jails), `${mode} ${seconds} 65000 9000`)
        await ask(`jailed ${mode}`, most, `${mode} ${seconds} 1900000000 9000`)
      }
      if (round % 3 === 0)
        for (const grants of grantCounts)
          for (const mode of ['udp', 'connects'])
            await ask(
              `grants ${mode} ${grants}`,
              `1 ${grants}`,
              `${mode} ${seconds} 1900000000 9000`,
            )
      await ask('refused ms', most, `refused ${seconds} 1900000000 81`)
    }
  } finally {
    for (const child of children) child.kill('SIGKILL')
  }
  return { counts, samples }
}

const units = {
  udp: 'UDP packets per s of CPU',
  connects: 'TCP connects per s of CPU',
  bytes: 'MB per s of CPU',
} as const
type Mode = keyof typeof units

export async function steady({ quick }: Options): Promise<Part> {
  const { counts, samples } = await measureAll(quick)
  const of = (key: string): readonly number[] => samples[key] ?? []
  const modes = Object.keys(units) as Mode[]
  const others = (mode: Mode, jails: number): number =>
    medianRatio(of(`other ${mode} ${jails}`), of(`other ${mode} 0`))
  const jailed = (mode: Mode): number => medianRatio(of(`jailed ${mode}`), of(`other ${mode} 0`))
  const floor = (name: string, mode: Mode): number =>
    medianRatio(of(`${name} ${mode}`), of(`other ${mode} 0`))
  const overTracked = (mode: Mode): number =>
    medianRatio(of(`other ${mode} ${String(counts.at(-1))}`), of(`tracked ${mode}`))
  const byGrants = (mode: Mode, grants: number): number =>
    median(of(`grants ${mode} ${grants}`)) / median(of(`other ${mode} 0`))
  // Datagrams have no bar: they show the cost of a packet, which the plots are of.
  const bars = (['connects', 'bytes'] as const).flatMap((mode): Bar[] => [
    {
      text: `${units[mode]} of another user, any number of jails in isolation namespace, over none`,
      ...{ figure: floor('namespace', mode), limit: 0.98, unit: 'x', sense: 'at least' },
    },
    {
      text: `${units[mode]} of another user with 1,000 jails in isolation uid installed, over none`,
      ...{ figure: others(mode, 1000), limit: 0.98, unit: 'x', sense: 'at least' },
    },
    {
      text: `${units[mode]} of a jailed user through a grant in the kernel (uid isolation), over unjailed`,
      ...{ figure: jailed(mode), limit: 0.98, unit: 'x', sense: 'at least' },
    },
  ])
  bars.push({
    text: 'a refused connect in uid isolation with 1,000 jails, median',
    ...{ figure: median(of('refused ms')), limit: 1, unit: 'ms', sense: 'at most' },
  })
  return {
    title: 'Steady state',
    bars,
    tables: [
      {
        title: `Ratio to a kernel without a table, same round; ${of('refused ms').length} rounds, loopback`,
        head: ['who', 'jails installed', ...modes.map((mode) => units[mode])],
        rows: [
          ...Object.entries(floors).map(([name, what]) => [
            what,
            name === 'namespace' ? 'any' : '0',
            ...modes.map((mode) => digits(floor(name, mode))),
          ]),
          ...counts.map((jails) => [
            'another user, isolation uid',
            String(jails),
            ...modes.map((mode) => digits(others(mode, jails))),
          ]),
          [
            'a jailed user, a grant in the kernel',
            '1000',
            ...modes.map((mode) => digits(jailed(mode))),
          ],
          [
            'another user, isolation uid, over the empty chains that track',
            '1000',
            ...modes.map((mode) => digits(overTracked(mode))),
          ],
        ],
      },
    ],
    plots: [
      {
        name: 'other-users',
        svg: linePlot(
          "Other users' traffic, ratio to no jail",
          'jails installed (uid isolation)',
          'ratio',
          modes.map((mode) => ({
            name: units[mode],
            points: counts.map((jails) => [Math.max(jails, 1), others(mode, jails)] as const),
          })),
        ),
      },
      {
        name: 'packets-by-grants',
        svg: linePlot(
          "A jail's own traffic through the kernel, ratio to unjailed",
          'grants by address of the jail',
          'ratio',
          (['udp', 'connects'] as const).map((mode) => ({
            name: units[mode],
            points: grantCounts.map((grants) => [grants, byGrants(mode, grants)] as const),
          })),
        ),
      },
    ],
    missing: [],
    notes: [
      `A jail's granted packets through the kernel by the number of its grants (${grantCounts.join(', ')}), the last one's: ${(
        ['udp', 'connects'] as const
      )
        .map(
          (mode) =>
            `${units[mode]} ${grantCounts.map((grants) => digits(byGrants(mode, grants))).join(', ')}`,
        )
        .join('; ')} of an unjailed user's.`,
    ],
    raw: { counts, samples },
  }
}
