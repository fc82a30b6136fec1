/**
 * Wardens and gates killed at instants that look random and are the same in each run, on a modelled Mac with real
 * processes. Judge: after every command that macOS is given, pf as the evaluator sees it lets no jail's user reach what
 * its policy does not grant; and what the next command of agentjail leaves is what was there before.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { play, type Flow } from './flows.js'
import { ended, MacRoot, until } from './mac-root.js'
import { worldOf } from './model/world.js'
import { reserved } from './rulesets.js'

t.setTimeout(780_000)
const kills = Number(process.env['AGENTJAIL_KILLS'] ?? 3)
const mac = await MacRoot.open()
t.teardown(() => {
  mac.close()
})

/** Numbers from 0 to 1 (mulberry32). */
const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let x = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
  return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
}

const uids = Array.from({ length: 4 }, (_, at) => reserved.first + at)
const targets = [
  ['203.0.113.66', 443],
  ['203.0.113.66', 5432],
  ['198.51.100.7', 443],
  ['2001:db8::66', 53],
] as const
const granted: Omit<Flow, 'client'> = {
  kind: 'connect',
  from: '192.168.1.10',
  to: '198.51.100.7',
  port: 5432,
}

/** What the users of the reserved range may reach now beyond the policy. */
function openings(): string[] {
  const world = worldOf(mac.state)
  return uids.flatMap((client) =>
    targets.flatMap(([to, port]) =>
      (['connect', 'send'] as const).flatMap((kind) => {
        const from = to.includes(':') ? '2001:db8:f::10' : '192.168.1.10'
        const flow: Flow = { kind, client, from, to, port }
        return play({ ...world, states: [] }, flow) === 'passes' ? [JSON.stringify(flow)] : []
      }),
    ),
  )
}

async function left(): Promise<unknown> {
  const { pf, acls, interfaces } = mac.state
  const find = await mac.run([
    ...['/usr/bin/find', '/var/run/agentjail', '/var/run/agentjail-ca', '-type', 'f'],
    ...['-not', '-name', 'last-uid', '-not', '-name', 'pf.json'],
  ])
  return {
    rules: pf.anchors['com.apple/agentjail'],
    tables: pf.tables,
    tokens: pf.tokens.length,
    acls: Object.values(acls).flat(),
    interfaces: [...interfaces],
    files: find.stdout,
    processes: (await mac.run(['/usr/bin/pgrep', '-x', 'sleep'])).stdout,
  }
}

t.test('killed at any instant', async (t) => {
  await mac.write(
    '/etc/p.yaml',
    'version: 1\nname: p\nnetwork: { allow: [a.example], cidrs: [{ cidr: 198.51.100.7/32, ports: [5432] }] }\n',
  )
  await mac.jail('setup')
  const first = ['run', '--policy', '/etc/p.yaml', '--name', 'bot', '--', '/usr/bin/true']
  t.match(await mac.jail(...first), { code: 0 })
  const before = await left()
  const seen = new Set<string>()
  let judged = 0
  let reached = 0
  mac.onCommand = () => {
    judged++
    for (const opening of openings()) seen.add(opening)
    if (uids.some((client) => play(worldOf(mac.state), { ...granted, client }) === 'passes'))
      reached++
  }
  const next = random(7)
  for (let n = 0; n < kills; n++) {
    const run = ['run', '--policy', '/etc/p.yaml', '--name', 'bot', '--', '/bin/sleep', '300']
    const jail = mac.startJail(...run)
    const end = ended(jail)
    if (n % 3 === 2) {
      // The gate of a jail that runs.
      await until('it runs', async () => {
        if (jail.exitCode !== null) throw new Error((await end).stderr)
        return /"running"/.test((await mac.jail('status', '--json')).stdout)
      })
      await mac.run(['/usr/bin/pkill', '-KILL', '-u', '450'])
      t.match((await end).stderr, /the gate ended: .*the command is ended/s, `kill ${String(n)}`)
    } else {
      await sleep(next() * 3_000)
      mac.killInner(jail)
      await end
    }
    t.match(await mac.jail('gc'), { code: 0 }, `kill ${String(n)}: gc`)
    t.strictSame(await left(), before, `kill ${String(n)}: as before`)
  }
  mac.onCommand = undefined
  t.strictSame([...seen], [], `${String(judged)} commands of macOS, never more than the policy`)
  t.ok(reached > 0, 'what is granted was open meanwhile')
})
