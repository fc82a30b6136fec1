/**
 * The battery on macOS: read by Node from standard input inside the jail, so the build makes one file of it.
 * Invariant: one line of JSON for each probe, whatever it meets; it changes nothing but what it says it tries.
 */
import { execFile } from 'node:child_process'
import { lookup, Resolver } from 'node:dns/promises'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import {
  attempt,
  forkBomb,
  inbound,
  leaveBehind,
  patience,
  reachOut,
  say,
  send,
  sendByPerl,
  tcp,
  workspaceFiles,
} from '../inside-kit.js'
import type { MacInsideConfig } from '../types.js'

const config = JSON.parse(process.env['AGENTJAIL_VERIFY'] ?? '') as MacInsideConfig
/** Absent where the policy is transparent. */
const proxy = ((): URL | undefined => {
  const text = process.env['HTTPS_PROXY']
  return text === undefined ? undefined : new URL(text)
})()

/** The ports tell the witness which probe it is: see `wire.ts`. */
const network = async (): Promise<void> => {
  const { target4, target6 } = config
  await reachOut(config, 8082)
  // Anyone may make a datagram socket of ICMP on macOS. Echo request: type 8 (ICMPv6: 128), code 0.
  const echo = `my ($kind, $to, $data) = @ARGV;
    my ($family, $protocol) = $kind eq 'icmp' ? (AF_INET, 1) : (AF_INET6, 58);
    socket(my $s, $family, SOCK_DGRAM, $protocol) or do { print "socket: $!"; exit };
    my $address = Socket::inet_pton($family, $to);
    send($s, pack('H*', $data), 0, $kind eq 'icmp' ? pack_sockaddr_in(0, $address) : Socket::pack_sockaddr_in6(0, $address)) or do { print "send: $!"; exit };
    print 'sent';`
  // The checksum is that of these very bytes.
  await sendByPerl('icmp', echo, 'icmp', target4, '08002a2e000000016c65616b')
  await sendByPerl('icmp-ipv6', echo, 'icmp6', target6, '80000000000000016c65616b')
}

/** A way to a name as programs here go: through the gate by name, or led to it by the granted name's address. */
const open = (name: string, port: number): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const to =
      proxy === undefined
        ? { host: config.granted4, port }
        : { host: proxy.hostname, port: Number(proxy.port) }
    const socket = connect(to)
    const finish = (error?: Error): void => {
      clearTimeout(timer)
      socket.removeAllListeners()
      socket.on('error', () => undefined)
      if (error === undefined) return resolve(socket)
      socket.destroy()
      reject(error)
    }
    const timer = setTimeout(() => {
      finish(new Error('no answer'))
    }, patience)
    socket.on('error', finish)
    socket.on('close', () => {
      finish(new Error('closed without an answer'))
    })
    socket.on('connect', () => {
      if (proxy === undefined) finish()
      else socket.write(connectRequest(proxy, `${name}:${String(port)}`))
    })
    socket.on('data', (chunk) => {
      const status = /^HTTP\/1\.1 (\d+)/.exec(chunk.toString('latin1'))?.[1]
      finish(status === '200' ? undefined : new Error(`the gate answers ${status ?? 'nothing'}`))
    })
  })

const connectRequest = ({ username, password }: URL, authority: string): string => {
  const secret = Buffer.from(`${decodeURIComponent(username)}:${password}`).toString('base64')
  return `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\nProxy-Authorization: Basic ${secret}\r\n\r\n`
}

/** Says hello under this name; nobody answers it, so what counts is whether the gate dials. */
const hello = async (servername: string, port: number): Promise<string> => {
  const socket = await open(servername, port)
  return await new Promise((resolve) => {
    const tls = connectTls({ socket, servername, rejectUnauthorized: false })
    const finish = (why: string): void => {
      clearTimeout(timer)
      socket.destroy()
      resolve(why)
    }
    const timer = setTimeout(() => {
      finish('no answer')
    }, patience)
    tls.on('error', (error: Error) => {
      finish(error.message)
    })
    tls.on('close', () => {
      finish('closed')
    })
  })
}

const tunnel = async (): Promise<string> => {
  const name = `${Buffer.from('leak').toString('hex')}.${config.tunnel}`
  if (proxy !== undefined) return await hello(name, 443)
  const resolver = new Resolver({ timeout: 800, tries: 1 })
  resolver.setServers([config.granted4])
  return `resolved to ${(await resolver.resolve4(name)).join(', ')}`
}

const names = async (): Promise<void> => {
  await Promise.all([
    send('dns-tunnel', tunnel),
    send('control', () => hello(config.granted, 443)),
    send('sni-other', () => hello(config.other, 8443)),
  ])
  if (config.resolver)
    await attempt('resolver-socket', async () => {
      const { error } = await tcp({ path: '/var/run/mDNSResponder' }, '')
      if (error === 'no answer') return 'it was reached'
      throw new Error(error)
    })
  else say('resolver-socket', null, 'there is no such socket on this Mac')
  const { hostName } = config
  if (hostName === undefined)
    say('resolver-service', null, 'the resolver has no answer of its own on this Mac')
  else
    await attempt('resolver-service', async () => {
      const { address } = await lookup(hostName)
      return `${hostName} is ${address}`
    })
}

/** Whether it was executed at all: what it then says does not matter. */
const isExecuted = ([program, ...args]: readonly [string, ...string[]]): Promise<boolean> =>
  new Promise((resolve) => {
    execFile(program, args, { timeout: 3_000 }, (error) => {
      // A number is the program's own exit code; a string says why there was none.
      resolve(error === null || typeof error.code === 'number' || error.killed === true)
    })
  })

const noneExecuted = (id: string, commands: readonly (readonly [string, ...string[]])[]) =>
  attempt(id, async () => {
    const executed: string[] = []
    for (const command of commands) if (await isExecuted(command)) executed.push(command[0])
    if (executed.length > 0) return `executed: ${executed.join(', ')}`
    throw new Error('none is executed')
  })

const privilege = async (): Promise<void> => {
  await noneExecuted('setuid', [
    ['/bin/ps', '-p', String(process.pid)],
    ['/usr/bin/sudo', '-n', '/usr/bin/true'],
    ['/usr/bin/top', '-l', '1', '-n', '1'],
  ])
  await noneExecuted('outside-programs', [
    ['/usr/bin/open', '-h'],
    ['/usr/bin/osascript', '-e', '1'],
    ['/bin/launchctl', 'version'],
    ['/usr/bin/crontab', '-l'],
  ])
  // 20 is staff (dscl . -read /Groups/staff).
  const isStaff = process.getgroups?.().includes(20) === true
  say('staff', isStaff, isStaff ? 'macOS counts every account as a member' : 'not a member')
}

const files = async (): Promise<void> => {
  await workspaceFiles(config)
  if (config.keychain)
    await attempt('keychain', () => {
      readFileSync('/Library/Keychains/System.keychain')
      return 'it was read'
    })
  else say('keychain', null, 'there is none on this Mac')
  await attempt('write-outside', () => {
    writeFileSync(`${config.open}/written`, '')
    return 'a file was written'
  })
  await attempt('shared-tmp', () => {
    if (readdirSync('/private/tmp').includes(config.tmpMarker)) return 'its files are there'
    throw new Error('another one')
  })
}

await Promise.all([network(), inbound(config.inboundPort, config.nonce), names()])
await privilege()
await files()
await forkBomb(config.pids)
leaveBehind()
await sleep(100)
say('done', null, '')
process.exit(0)
