/**
 * A host whose kernel was started without IPv6 (`ipv6.disable=1`): no such socket can be made, nothing is below
 * /proc/sys/net/ipv6. A system call filter around everything stands for it; what it lacks of the real thing: rtnetlink(7)
 * still takes IPv6. Judges: the lab's servers, the capture on the wire.
 */
import t from 'tap'
import { evil } from '../lab/addresses.js'
import { createLab } from '../lab/lab.js'
import { agentjailPath } from '../lab/paths.js'

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 180_000
t.setTimeout(timeout)

/** socket(2) by <asm/unistd.h>. The filter: socket(AF_INET6, ...) fails with EAFNOSUPPORT (seccomp(2), bpf(4)). */
const socketCall = process.arch === 'arm64' ? 198 : 41
const without = String.raw`
my $code = join '', map { pack 'S C C L', @$_ } [0x20, 0, 0, 0], [0x15, 0, 3, ${socketCall}], [0x20, 0, 0, 16],
  [0x15, 0, 1, 10], [0x06, 0, 0, 0x50000 | 97], [0x06, 0, 0, 0x7fff0000];
my ($prctl, $program) = (${process.arch === 'arm64' ? 167 : 157}, pack 'S x6 P', 6, $code);
syscall($prctl, 22, 2, $program) == 0 or die "seccomp: $!\n";
exec @ARGV or die "$ARGV[0]: $!\n"`

t.test('without IPv6 in the kernel', { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  const off = 'sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1'
  const hidden = await lab.run([
    'sh',
    '-ec',
    `${off}; mount -t tmpfs none /proc/sys/net/ipv6; mkdir -p /srv/work`,
  ])
  t.equal(hidden.code, 0, hidden.stderr)
  const argv = ['perl', '-e', without, '--']
  const path = '/etc/agentjail/policies/p.yaml'
  const write = (allow: string) =>
    lab.writeFile(
      path,
      `version: 1\nname: four\nnetwork: { allow: [${allow}], loopback: { listen: [3000] } }\n`,
    )
  const agentjail = [process.execPath, agentjailPath]
  const options = { cwd: '/srv/work', timeout: 60_000 }
  const socket = await lab.run([
    ...argv,
    'python3',
    '-c',
    'import socket as s; s.socket(s.AF_INET6)',
  ])
  t.match(socket.stderr, 'Address family not supported', 'there is none')

  for (const isolation of ['namespace', 'uid'] as const) {
    await t.test(isolation, async (t) => {
      write('plain.example')
      await lab.capture.clear()
      const script = [
        'curl -sS https://plain.example/granted',
        `curl -sS -m 5 https://evil.example/; curl -sSk -m 5 https://${evil.v4}/`,
        `dig +time=1 +tries=1 @8.8.8.8 evil.example; echo up`,
        'while ! test -e go; do sleep 0.1; done; curl -sS http://plain.example:8088/late; exec python3 -u -m http.server 3000 --bind 127.0.0.1',
      ].join('\n')
      const jail = lab.spawn(
        [
          ...argv,
          ...agentjail,
          'run',
          '--isolation',
          isolation,
          '-p',
          path,
          '--',
          'sh',
          '-c',
          script,
        ],
        options,
      )
      t.match(await jail.until(/^up/m, 40_000), /path \/granted/, jail.stderr())
      t.match(jail.stdout(), 'NXDOMAIN', 'refused by name, whichever server is asked')
      t.same(await lab.capture.packets((p) => p.dst === evil.v4), [])
      write('plain.example, "plain.example:8088"')
      const reloaded = await lab.run([...argv, ...agentjail, 'reload', 'four', '-p', path], options)
      t.equal(reloaded.code, 0, reloaded.stderr)
      lab.writeFile('/srv/work/go', '')
      t.match(await jail.until(/Serving HTTP/, 20_000), /path \/late/, 'a port that a reload opens')
      const inward = await lab.run(['curl', '-sS', '-m', '10', 'http://127.0.0.1:3000/'])
      t.match(inward.stdout, /href="go"/, inward.stderr)
      jail.kill('SIGTERM')
      await jail.ended
      await lab.run(['rm', '-f', '/srv/work/go'])
    })
  }
  await t.test('verify says what it cannot try', async (t) => {
    const { code, stdout } = await lab.run([...argv, ...agentjail, 'verify', '--json'], {
      ...options,
      timeout: 120_000,
    })
    t.equal(code, 0, stdout)
    const { findings } = JSON.parse(stdout) as {
      findings: { id: string; verdict: string; why: string }[]
    }
    const untested = findings.filter(({ why }) => why === 'this host has no IPv6')
    t.same(
      untested.map(({ id, verdict }) => `${id} ${verdict}`).sort(),
      ['icmp-ipv6', 'loopback-ipv6', 'tcp-ipv6', 'udp-ipv6'].map((id) => `${id} not-testable`),
    )
  })
})
