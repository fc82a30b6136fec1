/**
 * The battery itself: read by Node from standard input inside the jail, so the build makes one file of it.
 * Invariant: one line of JSON for each probe, whatever it meets; it changes nothing but what it says it tries.
 */
import { execFile } from 'node:child_process'
import { Resolver } from 'node:dns/promises'
import { readdirSync, readFileSync, readlinkSync, statfsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import {
  attempt,
  byPerl,
  forkBomb,
  inbound,
  leaveBehind,
  patience,
  perl,
  reach,
  reachOut,
  say,
  send,
  sendByPerl,
  textOf,
  tokenOf,
  workspaceFiles,
} from './inside-kit.js'
import type { InsideConfig } from './types.js'

const config = JSON.parse(process.env['AGENTJAIL_VERIFY'] ?? '') as InsideConfig
const token = (id: string): string => tokenOf(config, id)

const output = (program: string, args: readonly string[]): Promise<string> =>
  new Promise((resolve, reject) => {
    execFile(program, args, { timeout: 5_000 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(stderr.trim().split('\n').at(-1) || textOf(error)))
    })
  })

const network = async (): Promise<void> => {
  const { target4, target6, host4, device } = config
  await Promise.all([
    reachOut(config, 8081),
    reach('abstract-socket', { path: `\0${config.abstractName}` }, token('abstract-socket')),
  ])
  // SO_BINDTODEVICE is 25; MPTCP is 262, UDP-Lite 136 (<asm-generic/socket.h>, <linux/in.h>).
  const stream = `socket(my $s, 2, 1, $ARGV[3]) or do { print "none " if $! =~ /not supported/; print "socket: $!"; exit };
    if ($ARGV[4]) { setsockopt($s, 1, 25, "$ARGV[4]\\0") or do { print "bind: $!"; exit } }
    $SIG{ALRM} = sub { print 'no answer'; exit }; alarm 1;
    connect($s, pack_sockaddr_in($ARGV[1], inet_aton($ARGV[0]))) or do { print "connect: $!"; exit };
    syswrite $s, $ARGV[2]; sysread $s, my $x, 99; print 'sent';`
  await sendByPerl('tcp-device', stream, target4, '8081', token('tcp-device'), '0', device)
  await sendByPerl('mptcp', stream, target4, '8081', token('mptcp'), '262', '')
  const datagram = `my ($family, $to, $protocol, $data) = @ARGV;
    socket(my $s, $family, 2, $protocol) or do { print "socket: $!"; exit };
    my $address = Socket::inet_pton($family, $to);
    send($s, pack('H*', $data), 0, $family == 2 ? pack_sockaddr_in(9, $address) : Socket::pack_sockaddr_in6(9, $address)) or do { print "send: $!"; exit };
    print 'sent';`
  // Echo request: type 8 (ICMPv6: 128), code 0; the kernel fills in checksum and identifier.
  await sendByPerl('icmp', datagram, '2', target4, '1', '08000000000000016c65616b')
  await sendByPerl('icmp-ipv6', datagram, '10', target6, '58', '80000000000000016c65616b')
  await sendByPerl('udp-lite', datagram, '2', target4, '136', '6c65616b')
  // IP_ADD_MEMBERSHIP is 35. In a network of its own, a join goes nowhere.
  const own = readlinkSync('/proc/self/ns/net') !== config.hostNetns
  await byPerl(
    'multicast',
    `socket(my $s, 2, 2, 0) or do { print "socket: $!"; exit };
     setsockopt($s, 0, 35, inet_aton('239.255.71.71') . inet_aton($ARGV[0])) or do { print "join: $!"; exit };
     print $ARGV[1] ? 'joined in a network of its own, which nothing leaves' : 'open the kernel announced it';`,
    host4,
    own ? '1' : '',
  )
}

const names = async (): Promise<void> => {
  const resolver = new Resolver({ timeout: 800, tries: 1 })
  await send('dns-tunnel', async () => {
    const label = Buffer.from('leak').toString('hex')
    return `resolved to ${(await resolver.resolve4(`${label}.${config.tunnel}`)).join(', ')}`
  })
  const [address] = await resolver.resolve4(config.granted).catch(() => [])
  if (address === undefined) {
    say('control', null, 'the granted name has no address')
    say('sni-other', null, 'the granted name has no address')
    return
  }
  const hello = (servername: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connectTls({ host: address, port: 443, servername, rejectUnauthorized: false })
      const finish = (why: string): void => {
        clearTimeout(timer)
        socket.destroy()
        resolve(why)
      }
      const timer = setTimeout(() => {
        finish('no answer')
      }, patience)
      socket.on('error', (error: Error) => {
        finish(error.message)
      })
    })
  await send('control', () => hello(config.granted))
  await send('sni-other', () => hello(config.other))
}

const privilege = async (): Promise<void> => {
  const status = readFileSync('/proc/self/status', 'utf8')
  const field = (name: string): string =>
    new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(status)?.[1] ?? ''
  const sets = ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']
  const held = sets.filter((name) => /[^0]/.test(field(name)))
  say('capabilities', held.length > 0, held.join(', ') || 'every set is empty')
  say('no-new-privs', field('NoNewPrivs') !== '1', `NoNewPrivs is ${field('NoNewPrivs')}`)
  const groups = process.getgroups?.().filter((gid) => gid !== process.getgid?.()) ?? []
  say('groups', groups.length > 0, groups.join(', ') || 'none but its own')
  await attempt('setuid', async () => {
    const uid = (await output(`${config.workspace}/helpers/as-root`, ['-u'])).trim()
    if (uid === '0') return 'it ran as root'
    throw new Error(`it ran as ${uid}`)
  })
  await attempt('file-capability', async () => {
    const said = await output(`${config.workspace}/helpers/capable`, ['/proc/self/status'])
    const effective = /^CapEff:\s*(\S+)/m.exec(said)?.[1] ?? ''
    if (/[^0]/.test(effective)) return `it ran with ${effective}`
    throw new Error('it ran without')
  })
}

const kernel = async (): Promise<void> => {
  await attempt('user-namespace', async () => {
    await output('unshare', ['-U', 'true'])
    return 'it was made'
  })
  // Raw: SOCK_RAW 3, protocol 255; packet: AF_PACKET 17.
  const raw = `print 'open directly' if socket(my $a, 2, 3, 255) || socket(my $b, 17, 3, 0); print "refused: $!"`
  await attempt('raw-socket', async () => {
    if ((await perl(raw)).startsWith('open')) return 'made directly'
    const said = await output('unshare', ['-Urn', 'perl', '-e', raw])
    if (said.startsWith('open')) return 'made in a user namespace'
    throw new Error(said)
  })
  await byPerl(
    'socket-families',
    `my %try = (vsock => [40, 1, 0], alg => [38, 5, 0], 'netlink-diag' => [16, 2, 4], 'netlink-uevent' => [16, 2, 15],
       key => [15, 3, 2], can => [29, 3, 1], tipc => [30, 5, 0], bluetooth => [31, 3, 1], smc => [43, 1, 0], rds => [21, 5, 0], sctp => [2, 1, 132]);
     my @open = grep { socket(my $s, $try{$_}[0], $try{$_}[1], $try{$_}[2]) } sort keys %try;
     print @open ? "open @open" : 'no other can be made'`,
  )
  await byPerl(
    'io-uring',
    `my $p = "\\0" x 120; print syscall(425, 2, $p) >= 0 ? 'open a ring was made' : "refused: $!"`,
  )
  const keyctl = process.arch === 'arm64' ? '219' : '250'
  await byPerl(
    'keyring',
    `my $id = syscall($ARGV[0], 0, -3, 1); print $id > 0 ? "open session keyring $id" : "refused: $!"`,
    keyctl,
  )
  const setsid = process.arch === 'arm64' ? '157' : '112'
  // TIOCSPTLCK, TIOCGPTN, TIOCSTI. EIO: the kernel's dev.tty.legacy_tiocsti is 0.
  await byPerl(
    'terminal-injection',
    `open my $m, '+<', '/dev/ptmx' or do { print "none no terminal: $!"; exit };
     my $zero = pack 'l', 0; ioctl($m, 0x40045431, $zero); my $n = pack 'l', 0; ioctl($m, 0x80045430, $n); $n = unpack 'l', $n;
     my $pid = fork; if ($pid) { waitpid $pid, 0; exit }
     syscall($ARGV[0]); open my $s, '+<', "/dev/pts/$n" or do { print "none no terminal: $!"; exit };
     my $x = 'x'; $| = 1; print ioctl($s, 0x5412, $x) ? 'open typed' : $! == 5 ? "none the kernel offers it to nobody: $!" : "refused: $!"`,
    setsid,
  )
}

const files = async (): Promise<void> => {
  await workspaceFiles(config)
  await attempt('shared-tmp', () => {
    if (readdirSync('/tmp').includes(config.tmpMarker)) return "the host's files are there"
    throw new Error('another one')
  })
  const { bsize, blocks } = statfsSync('/tmp')
  const size = bsize * blocks
  say('fill-tmp', size > config.tmpBytes, `${String(Math.floor(size / 1024 / 1024))} MiB`)
}

const processes = async (): Promise<void> => {
  const seen = readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(config.nonce)
    } catch {
      return false
    }
  })
  say('other-processes', seen.length > 0, seen.length > 0 ? 'seen' : 'none is seen')
  await byPerl(
    'system-v',
    `print defined msgget($ARGV[0], 0) ? 'open a message queue was found' : "not seen: $!"`,
    String(config.messageKey),
  )
  const left = process.env['AGENTJAIL_VERIFY_FDS'] ?? ''
  say('descriptors', left !== '', left || 'only 0, 1 and 2')
  const core = /^Max core file size\s+(\S+)\s+(\S+)/m.exec(
    readFileSync('/proc/self/limits', 'utf8'),
  )
  say('core-dump', core?.[2] !== '0', `at most ${core?.[2] ?? '?'} bytes`)
  await forkBomb(config.pids)
}

await Promise.all([network(), inbound(config.inboundPort, config.nonce)])
await names()
await privilege()
await kernel()
await files()
await processes()
leaveBehind()
await sleep(100)
say('done', null, '')
process.exit(0)
