/**
 * Starts at the same instant as something else: the same name again, other jails' ends, `gc`, the removal of the account.
 *
 * AGENTJAIL_INSTANTS: rounds of each.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import {
  cwd,
  eachCase,
  gc,
  isolations,
  jailed,
  openBench,
  policyPath,
  random,
  seed,
  silence,
  type Bench,
} from './faults-kit.js'

const rounds = Number(process.env['AGENTJAIL_INSTANTS'] ?? 4)

const run = ({ lab, isolation }: Bench, name: string, script: string) =>
  lab.agentjail(
    ['run', '-q', '-p', policyPath, '-n', name, '--isolation', isolation, '--', 'sh', '-c', script],
    { timeout: 120_000, cwd },
  )

/** One runs until the other was refused. Every second name has no account yet. */
const sameName = async (t: Test, bench: Bench) => {
  const { lab } = bench
  for (let round = 0; round < rounds; round++) {
    const name = round % 2 === 0 ? 'faults' : `twin-${round}`
    const waits = `until [ -e go ]; do sleep 0.02; done; echo ran`
    const pair = [run(bench, name, waits), run(bench, name, waits)]
    const first = await Promise.race(pair)
    t.match(
      first,
      { code: 125, stdout: '', stderr: /^agentjail: jail \S+ is running already: pid \d+, since / },
      `${round}: the other is told who holds ${name}`,
    )
    lab.writeFile(`${cwd}/go`, '')
    const both = await Promise.all(pair)
    t.same(both.map(({ code, stdout }) => `${code} ${stdout}`).sort(), ['0 ran\n', '125 '])
    await lab.run(['rm', `${cwd}/go`])
  }
}

/** In turn, so that ends meet starts all the time; a `gc` after the other beside them. */
const startsAndEnds = async (t: Test, bench: Bench) => {
  let [running, swept] = [true, 0]
  const sweeping = async () => {
    for (; running; swept++) await gc(t, bench.lab, 'beside starts')
  }
  const sweeper = sweeping()
  const works = async (name: string) => {
    for (let round = 0; round < rounds; round++) {
      const script = 'curl -sS --max-time 30 https://plain.example/ok'
      const { code, stdout, stderr } = await run(bench, name, script)
      t.equal(code, 0, `${name}, ${round}: ${stderr}`)
      t.match(stdout, /path \/ok/, `${name}, ${round}: has what it may`)
    }
  }
  await Promise.all(['one', 'two', 'three'].map(works))
  running = false
  await sweeper
  t.ok(swept > 0, `${swept} times`)
  t.same(jailed(bench.lab), [], 'nobody is left')
}

/** Whatever comes first, whole: a command that runs keeps its account and home to its end. */
const removal = async (t: Test, bench: Bench) => {
  t.comment(`AGENTJAIL_SEED=${seed}`)
  const next = random(seed)
  const script = 'cd && touch mine && echo ran && sleep 0.2 && test -e mine && id -un'
  let [ran, removed] = [0, 0]
  for (let round = 0; round < 2 * rounds; round++) {
    t.equal((await run(bench, 'faults', 'true')).code, 0, `${round}: there is an account`)
    const [start, end] = await Promise.all([
      sleep(next() * 150).then(() => run(bench, 'faults', script)),
      sleep(next() * 150).then(() => bench.lab.agentjail(['account', 'remove', 'faults'])),
    ])
    if (start.code === 0) {
      ran++
      t.equal(start.stdout, 'ran\naj-faults\n', `${round}: ran to its end, itself`)
    } else {
      t.match(start, { code: 125, stdout: '' }, `${round}: refused before it ran: ${start.stderr}`)
      t.match(start.stderr, /account remove faults|not fit for a jail|just being cleared/)
    }
    if (end.code === 0) removed++
    else t.match(end.stderr, /jail faults is (running already|just being cleared)|still has/)
    t.ok(start.code === 0 || end.code === 0, `${round}: one of the two was done`)
  }
  t.comment(`${ran} ran, ${removed} removed, of ${2 * rounds}`)
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 400_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const bench = await openBench(t, isolation)
    const cases = {
      'the same name': sameName,
      'starts and ends': startsAndEnds,
      'removal of the account': removal,
    }
    await eachCase(t, bench, timeout, cases, (t, name) => silence(t, bench.lab, name))
  })
}
