/**
 * What the batteries inside a jail share: how an attempt is made and told. Bundled into each of them, since they reach
 * the jail as one file on standard input.
 * Invariant: one line of JSON for each probe, whatever it meets; nothing waits long.
 */
import { execFile, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { appendFileSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { connect, createServer, type NetConnectOpts } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { InsideLine } from './types.js'

/** Milliseconds; everything that is closed answers at once. */
export const patience = 1_500

export const say = (id: string, open: boolean | null, why: string): void => {
  const line: InsideLine = { id, open, why: why.slice(0, 200) }
  writeSync(1, `${JSON.stringify(line)}\n`)
}

/** Without the path that a file's error ends in. */
export const textOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error))
    .replace(/, [a-z]+ '.*$/, '')
    .replaceAll('\0', '@')

/** Runs one probe; what it throws is the reason why it is closed. */
export const attempt = async (id: string, run: () => unknown): Promise<void> => {
  try {
    const why = await run()
    say(id, typeof why === 'string', typeof why === 'string' ? why : 'refused')
  } catch (error) {
    say(id, false, textOf(error))
  }
}

/** The same, where only the target outside can tell whether it arrived. */
export const send = async (id: string, run: () => Promise<string>): Promise<void> => {
  try {
    say(id, null, await run())
  } catch (error) {
    say(id, null, textOf(error))
  }
}

/** Resolves with what came back, or how it failed; never rejects, never waits long. */
export const tcp = (to: NetConnectOpts, text: string): Promise<{ data: string; error: string }> =>
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

/** A service of the host that greets: reached or not. */
export const reach = (id: string, to: NetConnectOpts, text: string): Promise<void> =>
  attempt(id, async () => {
    const { data, error } = await tcp(to, text)
    if (data !== '') return 'it answered'
    throw new Error(error)
  })

/** `nonce`: what an answer of the target repeats, and one of the filter does not. */
const udp = (host: string, port: number, text: string, nonce: string): Promise<string> =>
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
      finish(message.includes(nonce) ? 'answered' : 'answered by the filter')
    })
    socket.send(text, port, host, (error: unknown) => {
      if (error instanceof Error) finish(error.message)
    })
  })

/** What every battery tries the same way; the mapped address by a port of its own where the witness tells by ports. */
export interface Reach {
  readonly nonce: string
  readonly target4: string
  readonly target6: string
  readonly host4: string
  readonly hostPort: number
  readonly socketPath: string
  readonly metadata: boolean
}

/** A probe's word, by which the target or a service of the host knows it. */
export const tokenOf = ({ nonce }: Pick<Reach, 'nonce'>, id: string): string =>
  `agentjail:${nonce}:${id};`

/** The network and services of the host: ways out that are the same on every system. */
export const reachOut = async (given: Reach, mappedPort: number): Promise<void> => {
  const { nonce, target4, target6, host4, hostPort, socketPath } = given
  const token = (id: string): string => tokenOf(given, id)
  const sendTcp = (id: string, host: string, port: number): Promise<void> =>
    send(id, async () => (await tcp({ host, port }, token(id))).error || 'answered')
  const sendUdp = (id: string, host: string, port: number): Promise<void> =>
    send(id, () => udp(host, port, token(id), nonce))
  const greet = (id: string, to: NetConnectOpts): Promise<void> => reach(id, to, token(id))
  await Promise.all([
    sendTcp('tcp-direct', target4, 443),
    sendTcp('tcp-port', target4, 8081),
    sendTcp('tcp-ipv6', target6, 8081),
    sendTcp('tcp-mapped', `::ffff:${target4}`, mappedPort),
    sendUdp('udp', target4, 8081),
    sendUdp('udp-ipv6', target6, 8081),
    sendUdp('quic', target4, 443),
    sendUdp('dns-other', target4, 53),
    sendUdp('loopback-udp', '127.0.0.1', hostPort),
    greet('loopback-tcp', { host: '127.0.0.1', port: hostPort }),
    greet('loopback-ipv6', { host: '::1', port: hostPort }),
    greet('host-address', { host: host4, port: hostPort }),
    greet('path-socket', { path: socketPath }),
  ])
  if (given.metadata) await greet('metadata', { host: '169.254.169.254', port: 80 })
  else say('metadata', null, 'no metadata service answers on this machine')
}

/** Perl is part of every Debian and of macOS, and makes any system call. Rejects where it printed nothing. */
export const perl = (script: string, ...args: string[]): Promise<string> =>
  new Promise((resolve, reject) => {
    execFile('perl', ['-MSocket', '-e', script, ...args], { timeout: 5_000 }, (error, stdout) => {
      if (error !== null && stdout === '') reject(new Error(error.message.split('\n')[0] ?? ''))
      else resolve(stdout.trim())
    })
  })

/** Of a script that prints `open WHY`, `none WHY` or the reason it is closed. */
export const byPerl = async (id: string, script: string, ...args: string[]): Promise<void> => {
  try {
    const said = await perl(script, ...args)
    const [, word = '', why = ''] = /^(open|none) ?(.*)$/.exec(said) ?? []
    say(id, word === '' ? false : word === 'open' ? true : null, word === '' ? said : why)
  } catch (error) {
    say(id, false, textOf(error))
  }
}

export const sendByPerl = (id: string, script: string, ...args: string[]): Promise<void> =>
  send(id, async () => (await perl(script, ...args)).replace(/^none /, ''))

/** Listens on this port of every address for a while, and says what was heard. */
export const inbound = async (port: number, nonce: string): Promise<void> => {
  const heard = { udp: '', tcp: '' }
  const socket = createSocket('udp4')
  const server = createServer((peer) => {
    peer.on('data', (chunk) => (heard.tcp += chunk.toString('latin1')))
    peer.on('error', () => undefined)
  })
  socket.on('message', (message) => (heard.udp += message.toString('latin1')))
  socket.on('error', () => undefined)
  server.on('error', () => undefined)
  socket.bind(port)
  server.listen(port, '0.0.0.0')
  await sleep(1_200)
  socket.close()
  server.close()
  for (const way of ['udp', 'tcp'] as const) {
    const open = heard[way].includes(nonce)
    say(`inbound-${way}`, open, open ? 'it arrived' : 'nothing arrived')
  }
}

/** What lies around and in the workspace. */
export const workspaceFiles = async (given: {
  readonly workspace: string
  readonly canary: string
  readonly nonce: string
}): Promise<void> => {
  const { workspace, canary, nonce } = given
  await attempt('caller-files', () => readFileSync(canary, 'utf8') && 'it was read')
  await attempt('dot-env', () => {
    if (readFileSync(`${workspace}/.env`, 'utf8').includes(nonce)) return 'it was read'
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
}

/** More processes than the limit. */
export const forkBomb = (limit: number): Promise<void> =>
  byPerl(
    'fork-bomb',
    `my ($n, @p) = (0); $| = 1;
     while ($n < $ARGV[0]) { my $p = fork; last unless defined $p; if (!$p) { close STDOUT; sleep 20; exit } push @p, $p; $n++ }
     my $why = $!; kill 9, @p; waitpid $_, 0 for @p;
     print $n >= $ARGV[0] ? "open $n processes" : "refused after $n: $why"`,
    String(limit + 32),
  )

/** In a session of its own; writes to the results long after this program's end, if it lives. */
export const leaveBehind = (): void => {
  const script = `close STDIN; for (1 .. 1500) { syswrite STDOUT, "left\n"; select undef, undef, undef, 0.02 }`
  spawn('perl', ['-e', script], { stdio: ['ignore', 'inherit', 'ignore'], detached: true })
    .on('error', () => undefined)
    .unref()
}
