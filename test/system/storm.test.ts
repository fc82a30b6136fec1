/**
 * What may befall a running jail, in random order at random instants, while its command hammers the attacker without
 * pause: flushes and deletions by other tools, reloads, the gate's death. In both isolations.
 * Judge: the capture, which has no packet to the attacker: not before the damage is noticed, and not after.
 *
 * AGENTJAIL_STORM: events in each isolation. AGENTJAIL_SEED: those of a run that printed it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { damage, denyLine } from '../lab/firewall.js'
import {
  eventually,
  gates,
  granted,
  hammer,
  isolations,
  nothingLeft,
  openBench,
  policy,
  policyPath,
  random,
  seed,
  silence,
  start,
  type Bench,
} from './faults-kit.js'

const events = Number(process.env['AGENTJAIL_STORM'] ?? 8)

/** Grants more, and nothing of the attacker's. */
const wider = `${policy}    - { host: github.com, ports: [22] }\n`

type Jail = Awaited<ReturnType<typeof start>>

interface Storm {
  readonly t: Test
  readonly bench: Bench
  readonly jail: Jail
  /** Milliseconds from the damage to its being restored and told, as seen from outside. */
  readonly noticed: number[]
}

const restoredAfter = async ({ t, bench, jail, noticed }: Storm, argv: readonly string[]) => {
  const seen = jail.stderr().length
  const from = performance.now()
  const { code, stderr } = await bench.lab.run(argv)
  t.equal(code, 0, stderr)
  // In a namespace of its own nothing of the host's holds it.
  if (bench.isolation === 'namespace') {
    const isBack = async () => (await bench.lab.rules()).includes(denyLine)
    t.ok(await eventually(isBack, 400), 'the second line comes back')
    return
  }
  const told = await eventually(() => jail.stderr().slice(seen).includes('have been restored'), 400)
  t.ok(told, 'restored and told')
  noticed.push(performance.now() - from)
  t.comment(`restored and told after ${Math.round(noticed.at(-1) ?? 0)} ms: ${argv.join(' ')}`)
}

const happenings: Readonly<Record<string, (storm: Storm, n: number) => Promise<void>>> = {
  'all rules flushed': (storm) => restoredAfter(storm, damage.everything),
  'the static deny deleted': (storm) => restoredAfter(storm, damage.deny),
  'our grants deleted': (storm) =>
    storm.bench.isolation === 'uid' ? restoredAfter(storm, damage.ours) : Promise.resolve(),
  'one element deleted': (storm) =>
    storm.bench.isolation === 'uid' ? restoredAfter(storm, damage.lead) : Promise.resolve(),
  reload: async ({ t, bench: { lab } }, n) => {
    lab.writeFile(policyPath, n % 2 === 0 ? wider : policy)
    const { code, stderr } = await lab.agentjail(['reload', 'faults', '-p', policyPath], {
      timeout: 60_000,
    })
    t.equal(code, 0, stderr)
  },
}

const killGate = async ({ t, bench: { lab }, jail }: Storm, word: RegExp) => {
  for (const { pid } of gates(lab)) await lab.run(['kill', '-9', String(pid)])
  await jail.until(word, 30_000)
  t.pass('the gate was killed')
}

const storm = async (t: Test, bench: Bench) => {
  const { lab } = bench
  t.comment(`AGENTJAIL_SEED=${seed}`)
  const next = random(seed)
  const noticed: number[] = []
  const jail = await start(bench, hammer)
  const it = { t, bench, jail, noticed }
  const works = async (name: string) => {
    const isServed = await eventually(
      async () => (await granted(lab)).stdout.includes('path /ok'),
      20,
    )
    t.ok(isServed, `${name}: what is granted works`)
    await silence(t, lab, name)
  }
  const names = Object.keys(happenings)
  const killAt = Math.floor(next() * events)
  for (let n = 0; n < events; n++) {
    await sleep(next() * 400)
    if (n === killAt) {
      await killGate(it, /is started again/)
      await works(`${n}: gate killed`)
    }
    // Each once, then at random.
    const name = names[n < names.length ? n : Math.floor(next() * names.length)] ?? 'reload'
    await happenings[name]?.(it, n)
    await works(`${n}: ${name}`)
  }
  await killGate(it, /the gate ended again: .*; the command is ended/)
  await jail.ended
  await silence(t, lab, 'the gate killed again')
  lab.writeFile(policyPath, policy)
  await nothingLeft(t, lab, 'storm')
  const worst = Math.max(0, ...noticed)
  if (noticed.length > 0)
    t.comment(`restored and told: ${noticed.length} times, after ${Math.round(worst)} ms at most`)
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 600_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => storm(t, await openBench(t, isolation)))
}
