/**
 * The battery itself: read by Node from standard input inside the jail, so it must be this one file,
 * with nothing imported but Node's own modules.
 * Invariant: one line of JSON for each probe, whatever it meets; it changes nothing but what it says it tries.
 */
import { execFile, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { Resolver } from 'node:dns/promises'
import {
  appendFileSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { connect, createServer, type NetConnectOpts } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import type { InsideConfig, InsideLine } from './types.js'

const config = JSON.parse(process.env['AGENTJAIL_VERIFY'] ?? '') as InsideConfig
/** Milliseconds; everything that is closed answers at once. */
const patience = 1_500

const say = (id: string, open: boolean | null, why: string): void => {
  const line: InsideLine = { id, open, why: why.slice(0, 200) }
  writeSync(1, `${JSON.stringify(line)}\n`)
}
/** Without the path that a file's error ends in. */
const textOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error))
    .replace(/, [a-z]+ '.*$/, '')
    .replaceAll('\0', '@')

/** Runs one probe; what it throws is the reason why it is closed. */
const attempt = async (id: string, run: () => unknown): Promise<void> => {
  try {
    const why = await run()
    say(id, typeof why === 'string', typeof why === 'string' ? why : 'refused')
  } catch (error) {
    say(id, false, textOf(error))
  }
}

/** The same, where only the target outside can tell whether it arrived. */
const send = async (id: string, run: () => Promise<string>): Promise<void> => {
  try {
    say(id, null, await run())
  } catch (error) {
    say(id, null, textOf(error))
  }
}

const token = (id: string): string => `agentjail:${config.nonce}:${id};`

/** Resolves with what came back, or how it failed; never rejects, never waits long. */
const tcp = (to: NetConnectOpts, text: string): Promise<{ data: string; error: string }> =>
  new Promise((resolve) => {
    let data = ''
    const socket = connect(to, () => socket.write(text))
    const finish = (error: string): void => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ data, error })
    }
    const timer = setTimeout(() => {
      finish('no answer')
    }, patience)
    socket.on('data', (chunk) => {
      data += chunk.toString('latin1')
      if (data.includes(';') || data.includes('\n')) finish('')
    })
    socket.on('error', (error) => {
      finish(error.message)
    })
    socket.on('close', () => {
      finish('closed without an answer')
    })
  })

const sendTcp = (id: string, host: string, port: number): Promise<void> =>
  send(id, async () => (await tcp({ host, port }, token(id))).error || 'answered')

/** A service of the host that greets: reached or not. */
const reach = (id: string, to: NetConnectOpts): Promise<void> =>
  attempt(id, async () => {
    const { data, error } = await tcp(to, token(id))
    if (data !== '') return 'it answered'
    throw new Error(error)
  })

const udp = (host: string, port: number, text: string): Promise<string> =>
  new Promise((resolve) => {
    const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4')
    const finish = (why: string): void => {
      clearTimeout(timer)
      socket.close()
      resolve(why)
    }
    const timer = setTimeout(() => {
      finish('no answer')
    }, 300)
    socket.on('error', (error) => {
      finish(error.message)
    })
    socket.on('message', (message) => {
      finish(message.includes(config.nonce) ? 'answered' : 'answered by the filter')
    })
    socket.send(text, port, host, (error: unknown) => {
      if (error instanceof Error) finish(error.message)
    })
  })

const sendUdp = (id: string, host: string, port: number): Promise<void> =>
  send(id, () => udp(host, port, token(id)))

/** Perl is part of every Debian, and makes any system call. Prints `open WHY`, `none WHY` or the reason it is closed. */
const perl = (script: string, ...args: string[]): Promise<string> =>
  new Promise((resolve, reject) => {
    execFile('perl', ['-MSocket', '-e', script, ...args], { timeout: 5_000 }, (error, stdout) => {
      if (error !== null && stdout === '') reject(new Error(error.message.split('\n')[0] ?? ''))
      else resolve(stdout.trim())
    })
  })

const byPerl = async (id: string, script: string, ...args: string[]): Promise<void> => {
  try {
    const said = await perl(script, ...args)
    const [, word = '', why = ''] = /^(open|none) ?(.*)$/.exec(said) ?? []
    say(id, word === '' ? false : word === 'open' ? true : null, word === '' ? said : why)
  } catch (error) {
    say(id, false, textOf(error))
  }
}
const sendByPerl = (id: string, script: string, ...args: string[]): Promise<void> =>
  send(id, async () => (await perl(script, ...args)).replace(/^none /, ''))

const output = (program: string, args: readonly string[]): Promise<string> =>
  new Promise((resolve, reject) => {
    execFile(program, args, { timeout: 5_000 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(stderr.trim().split('\n').at(-1) || textOf(error)))
    })
  })

const network = async (): Promise<void> => {
  const { target4, target6, host4, device, hostPort } = config
  await Promise.all([
    sendTcp('tcp-direct', target4, 443),
    sendTcp('tcp-port', target4, 8081),
    sendTcp('tcp-ipv6', target6, 8081),
    sendTcp('tcp-mapped', `::ffff:${target4}`, 8081),
    sendUdp('udp', target4, 8081),
    sendUdp('udp-ipv6', target6, 8081),
    sendUdp('quic', target4, 443),
    sendUdp('dns-other', target4, 53),
    reach('loopback-tcp', { host: '127.0.0.1', port: hostPort }),
    reach('loopback-ipv6', { host: '::1', port: hostPort }),
    reach('host-address', { host: host4, port: hostPort }),
    reach('abstract-socket', { path: `\0${config.abstractName}` }),
    reach('path-socket', { path: config.socketPath }),
    send('loopback-udp', () => udp('127.0.0.1', hostPort, token('loopback-udp'))),
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
  if (config.metadata) await reach('metadata', { host: '169.254.169.254', port: 80 })
  else say('metadata', null, 'no metadata service answers on this machine')
}

const inbound = async (): Promise<void> => {
  const heard = { udp: '', tcp: '' }
  const socket = createSocket('udp4')
  const server = createServer((peer) => {
    peer.on('data', (chunk) => (heard.tcp += chunk.toString('latin1')))
    peer.on('error', () => undefined)
  })
  socket.on('message', (message) => (heard.udp += message.toString('latin1')))
  socket.on('error', () => undefined)
  server.on('error', () => undefined)
  socket.bind(config.inboundPort)
  server.listen(config.inboundPort, '0.0.0.0')
  await sleep(1_200)
  socket.close()
  server.close()
  for (const way of ['udp', 'tcp'] as const) {
    const open = heard[way].includes(config.nonce)
    say(`inbound-${way}`, open, open ? 'it arrived' : 'nothing arrived')
  }
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
  const { workspace } = config
  await attempt('caller-files', () => readFileSync(config.canary, 'utf8') && 'it was read')
  await attempt('dot-env', () => {
    if (readFileSync(`${workspace}/.env`, 'utf8').includes(config.nonce)) return 'it was read'
    throw new Error('empty')
  })
  await attempt('git-hooks', () => {
    writeFileSync(`${workspace}/.git/hooks/post-checkout`, '#!/bin/sh\n')
    return 'a hook was written'
  })
  await attempt('own-package', () => {
    appendFileSync(`${workspace}/package/code.js`, '// changed\n')
    return 'it was changed'
  })
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
  await byPerl(
    'fork-bomb',
    `my ($n, @p) = (0); $| = 1;
     while ($n < $ARGV[0]) { my $p = fork; last unless defined $p; if (!$p) { close STDOUT; sleep 20; exit } push @p, $p; $n++ }
     my $why = $!; kill 9, @p; waitpid $_, 0 for @p;
     print $n >= $ARGV[0] ? "open $n processes" : "refused after $n: $why"`,
    String(config.pids + 32),
  )
}

/** Writes to the results long after this program's end, if it lives. */
const leaveBehind = (): void => {
  const script = `close STDIN; syscall($ARGV[0]); for (1 .. 1500) { syswrite STDOUT, "left\\n"; select undef, undef, undef, 0.02 }`
  const setsid = process.arch === 'arm64' ? '157' : '112'
  spawn('perl', ['-e', script, setsid], { stdio: ['ignore', 'inherit', 'ignore'], detached: true })
    .on('error', () => undefined)
    .unref()
}

await Promise.all([network(), inbound()])
await names()
await privilege()
await kernel()
await files()
await processes()
leaveBehind()
await sleep(100)
say('done', null, '')
process.exit(0)
