/** One user, one jail: rules know a user only, so two jails of one would be held by the rules of one. */
import t, { type Test } from 'tap'
import { isolations, openBench, policy, policyPath, type Bench } from './faults-kit.js'

const timeout = 300_000

/** Of an administrator's making, in the reserved range. */
const bot = { name: 'bot', uid: 1_900_000_500 } as const

const run = ({ lab, isolation }: Bench, name: string, user: string, script: string) =>
  lab.agentjail(
    [
      'run',
      '-q',
      '-p',
      policyPath,
      '--isolation',
      isolation,
      '--name',
      name,
      '--user',
      user,
    ].concat(['--', 'sh', '-c', script]),
    { timeout: 60_000 },
  )

/** The home is the user's: whoever finds the other there shares it. */
const alone = 'cd; mkdir busy || { echo shared; exit 7; }; sleep 0.4; rmdir busy'

const atOneInstant = async (t: Test, bench: Bench) => {
  let ran = 0
  for (let round = 0; round < 6; round++) {
    const pair = await Promise.all(['a', 'b'].map((name) => run(bench, name, bot.name, alone)))
    for (const { code, signal, stdout, stderr } of pair) {
      t.same([stdout, signal], ['', null], `round ${String(round)}: alone to its own end`)
      if (code === 0) ran++
      else
        t.match(
          { code, stderr },
          { code: 125, stderr: /user bot (is jail [ab]'s|has processes) already/ },
        )
    }
  }
  const last = await run(bench, 'a', bot.name, alone)
  t.equal(last.code, 0, `nothing of them is in the way of the next: ${last.stderr}`)
  t.comment(`${String(ran)} of 12 ran`)
}

const ofAnotherJail = async (t: Test, bench: Bench) => {
  for (const when of ['before there is one', 'when it exists']) {
    const { code, stderr } = await run(bench, 'a', 'aj-x', 'true')
    t.equal(code, 125, when)
    t.match(
      stderr,
      /^agentjail: user aj-x is the own user of jail x; leave --user away, or run with --name x\n$/,
    )
    t.equal((await run(bench, 'x', 'aj-x', 'true')).code, 0, 'its own jail has it')
  }
}

const twoNamesOfOneUid = async (t: Test, bench: Bench) => {
  const { lab } = bench
  await lab.run(['useradd', '-o', '-M', '-N', '-u', String(bot.uid), 'twin'])
  const { code, stderr } = await run(bench, 'a', bot.name, 'true')
  t.equal(code, 125)
  t.match(stderr, /user bot is not fit for a jail: twin has the same uid/)
  await lab.run(['userdel', '-f', 'twin'])
}

t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const bench = await openBench(t, isolation)
    const { lab } = bench
    lab.writeFile(policyPath, policy)
    const made = await lab.run(['useradd', '-m', '-u', String(bot.uid), bot.name])
    t.equal(made.code, 0, made.stderr)
    await lab.run(['chmod', '700', `/home/${bot.name}`])
    await t.test('two jails of one user at one instant', (t) => atOneInstant(t, bench))
    await t.test("another jail's own user", (t) => ofAnotherJail(t, bench))
    await t.test('two names of one uid', (t) => twoNamesOfOneUid(t, bench))
  })
}
