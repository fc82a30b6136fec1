/**
 * Death and damage of any part, on the real kernel, in both isolations, while a jailed program hammers the attacker.
 * Judge: the capture shows no packet to the attacker; the kernel shows nothing left after `agentjail gc`.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { damage, denyLine, firewall, tool } from '../lab/firewall.js'
import { allowAndDeny } from '../scenarios/change.js'
import { noRoom, rulesDamaged, stateDamaged } from '../scenarios/damage.js'
import { wardenKilled } from '../scenarios/death.js'
import { joinAndStop, newNamesAtOnce, sameNameAtOnce } from '../scenarios/names.js'
import {
  cwd,
  eachCase,
  eventually,
  gates,
  gc,
  granted,
  hammer,
  isolations,
  jailed,
  joined,
  nothingLeft,
  openBench,
  policyPath,
  silence,
  start,
  type Bench,
} from './faults-kit.js'
import { labHost } from './lab-host.js'

/** Instants at which the warden is killed, in each isolation. */
const kills = Number(process.env['AGENTJAIL_KILLS'] ?? 25)
/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 280_000

const gateKilled = async (t: Test, bench: Bench) => {
  const { lab } = bench
  const jail = await start(bench)
  t.match((await granted(lab)).stdout, /path \/ok/, 'a granted name is reached')
  const [first] = gates(lab)
  t.ok(first, 'there is a gate')
  for (const gate of gates(lab)) await lab.run(['kill', '-9', String(gate.pid)])
  await jail.until(/the gate ended .* is started again/)
  const again = await eventually(async () => /path \/ok/.test((await granted(lab)).stdout), 10)
  t.ok(again, 'the new gate serves')
  for (const gate of gates(lab)) await lab.run(['kill', '-9', String(gate.pid)])
  const { stderr } = await jail.ended
  t.match(stderr, /the gate ended again: .*; the command is ended/)
  await nothingLeft(t, lab, 'gate killed twice')
  await silence(t, lab, 'gate killed twice')
}

/** The command trusts the first gate's CA: the second has the same. */
const httpGateKilled = async (t: Test, bench: Bench) => {
  const { lab } = bench
  const path = '/etc/agentjail/policies/http.yaml'
  lab.writeFile(
    path,
    'version: 1\nname: faults\nnetwork:\n  allow: [{ host: api.openai.com, inspect: http, access: read-only }]\n',
  )
  const prefix = bench.prefix.map((word) => (word === policyPath ? path : word))
  const jail = await start({ ...bench, prefix })
  const certificate = `openssl s_client -connect api.openai.com:443 -servername api.openai.com -verify_return_error \
    -CAfile "$SSL_CERT_FILE" </dev/null 2>&1`
  const ask = () =>
    joined(
      lab,
      ['sh', '-c', `curl -sS -m 5 https://api.openai.com/v1/models; ${certificate}`],
      30_000,
    )
  const issuer = (text: string) => /^issuer=.*$/m.exec(text)?.[0]
  const before = await ask()
  t.match(before.stdout, /invalid_api_key/, `served: ${before.stderr}`)
  t.match(issuer(before.stdout), /agentjail faults/, "by the jail's own CA")
  for (const gate of gates(lab)) await lab.run(['kill', '-9', String(gate.pid)])
  await jail.until(/the gate ended .* is started again/)
  let after = before
  const isServed = await eventually(async () => {
    after = await ask()
    return /invalid_api_key/.test(after.stdout)
  }, 10)
  t.ok(isServed, `the command trusts the new gate: ${after.stdout} ${after.stderr}`)
  t.equal(issuer(after.stdout), issuer(before.stdout), 'it is the same CA')
  jail.kill('SIGTERM')
  await jail.ended
  await lab.run(['rm', path])
  await nothingLeft(t, lab, 'gate with a CA killed')
  await silence(t, lab, 'gate with a CA killed')
}

const wardenStopped = async (t: Test, bench: Bench) => {
  const jail = await start(bench, hammer)
  jail.kill('SIGSTOP')
  await sleep(1500)
  await silence(t, bench.lab, 'warden stopped')
  jail.kill('SIGCONT')
  // It stopped with its child.
  jail.child.kill('SIGCONT')
  jail.kill('SIGTERM')
  t.equal((await jail.ended).signal, 'SIGTERM')
  // The program that started it in the lab may end before it.
  await eventually(() => bench.lab.processes().every(({ command }) => !command.includes('faults')))
  await nothingLeft(t, bench.lab, 'warden stopped and continued')
}

/** A Ctrl-C is the command's, which may go on: nothing that holds the jail takes it for its own. */
const interrupted = async (t: Test, { lab, prefix }: Bench) => {
  const taking = `$SIG{INT} = sub { print "taken\\n" }; $| = 1; print "started\\n"; sleep 1 while 1`
  const argv = [...prefix, '--', 'perl', '-e', taking]
  const jail = lab.spawnAgentjail(argv, { tty: true, timeout: 60_000, cwd })
  await jail.until(/started/, 20_000)
  const holders = () =>
    lab.processes().flatMap(({ pid, command }) => (/^\S*nft .*-i/.test(command) ? [pid] : []))
  const before = holders()
  t.equal(before.length > 0, firewall === 'nftables', 'nft holds it')
  jail.write('\u0003')
  await jail.until(/taken/)
  // As long as a watch needs to see it.
  await sleep(1000)
  t.same(holders(), before, 'the same still do')
  t.notMatch(jail.stdout(), /restored/, 'and nothing had to be restored')
  t.equal((await lab.agentjail(['stop', 'faults'])).code, 0)
  await jail.ended
  await nothingLeft(t, lab, 'interrupted')
}

/** namespace: the host's firewall is not what holds the jail. */
const flushChangesNothing = async (t: Test, bench: Bench) => {
  const { lab } = bench
  const jail = await start(bench)
  await lab.run(damage.everything)
  await sleep(300)
  t.match((await granted(lab)).stdout, /path \/ok/, 'what is granted works')
  await silence(t, lab, 'flush')
  t.ok(
    await eventually(async () => (await lab.rules()).includes(denyLine), 200),
    'the second line comes back',
  )
  if (damage.off !== undefined) {
    // By its number: it may be back before anybody could see it switched off.
    const listing = ['nft', '-a', 'list', 'table', 'inet', 'agentjail']
    const table = async () => (await lab.run(listing)).stdout
    const numberOf = (text: string) => /^table inet agentjail \{ # handle (\d+)/m.exec(text)?.[1]
    const before = numberOf(await table())
    t.match(before, /^\d+$/)
    t.equal((await lab.run(damage.off('agentjail'))).code, 0)
    const isAnew = async () => {
      const text = await table()
      return !text.includes('dormant') && ![before, undefined].includes(numberOf(text))
    }
    t.ok(await eventually(isAnew, 200), 'switched off, it is made anew')
  }
  jail.kill('SIGTERM')
  await jail.ended
  await nothingLeft(t, lab, 'flush')
}

/** On an overloaded machine what restores the rules does not wait for everybody else, and nobody else goes first with it. */
const answersFirst = async (t: Test, bench: Bench) => {
  const { lab } = bench
  if ((await lab.run(['chrt', '-r', '1', 'true'])).code !== 0) {
    t.comment('this machine lets nobody go first')
    return
  }
  const jail = await start(bench)
  // proc(5): the 41st field of stat is the scheduling policy; 0 is the usual one, 2 SCHED_RR.
  const first = async () => {
    const all = lab.processes()
    const paths = all.map(({ pid }) => `/proc/${pid}/stat`)
    const { stdout } = await lab.run(['grep', '-Hs', '', ...paths])
    const lines = stdout.split('\n').map((line) => /^\/proc\/(\d+)\/stat:.*\) (.*)$/.exec(line))
    const hurried = lines.filter((line) => line?.[2]?.split(' ')[41 - 3] === '2')
    const pids = hurried.map((line) => Number(line?.[1]))
    return all.filter(({ pid }) => pids.includes(pid)).map(({ command }) => command)
  }
  const isListening = async () => (await first()).some((command) => command.includes('-MErrno'))
  t.ok(await eventually(isListening), 'what hears of a change goes first')
  const parts = ['-MErrno', 'agentjail.cjs run', 'nft -j -i']
  const seen = new Set<string | undefined>()
  const isAnswering = async () => {
    for (const command of await first()) seen.add(parts.find((part) => command.includes(part)))
    return seen.size >= parts.length
  }
  const answering = eventually(isAnswering, 400)
  await lab.run(damage.everything)
  await jail.until(/have been restored/)
  t.ok(await answering, 'so does what answers it')
  t.same([...seen].sort(), parts, 'and nothing else')
  const isOver = async () => (await first()).length === 1
  t.ok(await eventually(isOver, 400), 'for some seconds')
  jail.kill('SIGTERM')
  await jail.ended
  await nothingLeft(t, lab, 'answers first')
}

const toolGone = async (t: Test, bench: Bench) => {
  const { lab } = bench
  const jail = await start(bench)
  await lab.run(['mv', tool, `${tool}.gone`])
  await sleep(500)
  jail.kill('SIGTERM')
  const { stderr } = await jail.ended
  t.same(jailed(lab), [], 'no process is left')
  // An nft that runs already takes them away without its file.
  if (bench.isolation === 'uid' && tool.endsWith('nft')) t.equal(stderr, '')
  else if (bench.isolation === 'uid') t.match(stderr, /could not remove the rules: .*iptables.*gc/)
  await lab.run(['mv', `${tool}.gone`, tool])
  await gc(t, lab, 'tool gone')
  await nothingLeft(t, lab, 'tool gone')
  await silence(t, lab, 'tool gone')
}

/** Streams that are closed from the start, or whose reader left. */
const streams = async (t: Test, { lab, prefix }: Bench) => {
  const words = ['agentjail', ...prefix, '--'].join(' ')
  for (const script of [
    `${words} true <&- >&- 2>&-`,
    `${words} sh -c 'curl -sm2 http://evil.example; exit 3' 2>&1 >/dev/null | true`,
    `{ ${words} sh -c 'sleep 0.5; curl -sm2 http://evil.example; exit 3'; } 2>&1 | head -c 1 >/dev/null`,
  ]) {
    const { signal } = await lab.run(['sh', '-c', script], { timeout: 30_000, cwd })
    t.equal(signal, null, `${script.slice(-40)}: ends`)
    t.ok(await eventually(() => jailed(lab).length === 0), 'nobody is left')
  }
  await nothingLeft(t, lab, 'streams')
}

t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const bench = await openBench(t, isolation)
    const host = labHost(bench)
    const cases = {
      'kill -9 of the warden': (t: Test) =>
        wardenKilled(t, labHost(bench, hammer), { kills, within: 1200, endByThemselves: true }),
      'kill -9 of the gate': gateKilled,
      'kill -9 of a gate with a CA': httpGateKilled,
      'Ctrl-C': interrupted,
      'SIGSTOP of the warden': wardenStopped,
      ...(isolation === 'uid'
        ? {
            'damaged rules': (t: Test) => rulesDamaged(t, host),
            ...(firewall === 'nftables' ? { 'who answers a change': answersFirst } : {}),
          }
        : { 'flush of the host': flushChangesNothing }),
      'tool gone': toolGone,
      'no room, no descriptors': (t: Test) => noRoom(t, host),
      'damaged state files': (t: Test) => stateDamaged(t, host),
      'closed streams': streams,
      'join and stop': (t: Test) => joinAndStop(t, host),
      'the same name at one instant': (t: Test) => sameNameAtOnce(t, host),
      'new names at one instant': (t: Test) => newNamesAtOnce(t, host),
      'allow and deny': (t: Test) => allowAndDeny(t, host),
    }
    await eachCase(t, bench, timeout, cases)
  })
}
