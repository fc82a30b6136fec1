/**
 * Starts at the same instant as something else: the same name again, other jails' ends, `gc`, the removal of the account.
 *
 * AGENTJAIL_INSTANTS: rounds of each.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import {
  broken,
  cwd,
  eachCase,
  eventually,
  gc,
  isolations,
  jailed,
  openBench,
  pathOf,
  policyPath,
  random,
  seed,
  silence,
  type Bench,
} from './faults-kit.js'

const rounds = Number(process.env['AGENTJAIL_INSTANTS'] ?? 4)

const run = ({ lab, isolation }: Bench, name: string, script: string, timeout = 120_000) =>
  lab.agentjail(
    ['run', '-q', '-p', policyPath, '-n', name, '--isolation', isolation, '--', 'sh', '-c', script],
    { timeout, cwd },
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

/** As on a machine whose account tools wait for one another. */
const waiting = `#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
case "$*" in *aj-faults)
  touch /srv/removing
  until [ -e /srv/go ]; do sleep 0.02; done
esac
exec "$0.away" "$@"
`

/** The account is there until the removal's very end: what finds it does not start. */
const underRemoval = async (t: Test, bench: Bench) => {
  const { lab } = bench
  const userdel = await pathOf(lab, 'userdel')
  for (const words of [['account', 'remove', 'faults'], ['uninstall']]) {
    const name = words.join(' ')
    t.equal((await run(bench, 'faults', 'true')).code, 0, `${name}: there is an account`)
    const mend = await broken(lab, userdel, waiting)
    const end = lab.agentjail(words)
    const isThere = async () => (await lab.run(['test', '-e', '/srv/removing'])).code === 0
    t.ok(await eventually(isThere, 400), `${name}: it is under way`)
    const start = await run(bench, 'faults', 'echo ran', 30_000)
    lab.writeFile('/srv/go', '')
    const { code, stderr } = await end
    t.equal(code, 0, `${name}: ${stderr}`)
    await mend()
    await lab.run(['rm', '/srv/go', '/srv/removing'])
    t.match(start, { code: 125, stdout: '' }, `${name}: refused before it ran: ${start.stderr}`)
    t.match(start.stderr, `agentjail ${name}`, `${name}: told by what`)
  }
  t.match(await run(bench, 'faults', 'id -un'), { code: 0, stdout: 'aj-faults\n' }, 'and anew')
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
      'while an account is being removed': underRemoval,
    }
    await eachCase(t, bench, timeout, cases, (t, name) => silence(t, bench.lab, name))
  })
}
