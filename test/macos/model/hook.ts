/**
 * Loaded into Node processes on the modelled Mac (`--import`): what they do with sockets, files and programs is judged as
 * macOS would, by the seatbelt profile that they were started under and by the model's pf. What both let through and has
 * its other end on this machine happens for real.
 */
import childProcess from 'node:child_process'
import dgram from 'node:dgram'
import dnsPromises from 'node:dns/promises'
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import net from 'node:net'
import os from 'node:os'
import { Profile, type Attempt } from './sbpl.js'
import type { Sent, Told } from './traffic.js'

const text = process.env['MODEL_PROFILE']
const profile = text === undefined ? undefined : new Profile(text)
for (const name of ['MODEL_PROFILE', 'NODE_OPTIONS']) Reflect.deleteProperty(process.env, name)
const uid = process.getuid?.() ?? 0
const allows = (attempt: Attempt): boolean => profile?.allows(attempt) !== false
const refused = (code: string, what: string): Error =>
  Object.assign(new Error(`${what} ${code}`), { code })

const connectFirst = Reflect.get(net.Socket.prototype, 'connect') as (
  this: net.Socket,
  to: Destination,
  callback?: () => void,
) => net.Socket

/** Asks the model. */
function ask(argv: readonly string[], done: (answer: string) => void): void {
  const socket = new net.Socket({ allowHalfOpen: true })
  let said = ''
  socket.setEncoding('utf8').on('data', (more: string) => (said += more))
  socket.on('error', () => undefined)
  socket.on('close', () => {
    done(said.slice(said.indexOf('\n') + 1))
  })
  connectFirst.call(socket, { path: '/srv/mac/socket' }, () => {
    socket.end(`${argv.join('\0')}\0\0`)
  })
}

function transmit(sent: Omit<Sent, 'uid'>, done: (told: Omit<Told, 'seen'>) => void): void {
  ask(['model-packet', JSON.stringify({ ...sent, uid })], (said) => {
    const dropped = { verdict: 'dropped', address: sent.to, port: sent.port } as const
    done(said === '' ? dropped : (JSON.parse(said) as Told))
  })
}

const plain = (host: string): string =>
  host.replace(/^::ffff:/i, '').replace(/^localhost$/, '127.0.0.1')
/** Addresses of the Mac that this machine does not have. */
const really = (host: string): string =>
  ['127.0.0.1', '::1'].includes(host) ? host : host.includes(':') ? '::1' : '127.0.0.1'

interface Destination {
  readonly path?: string
  readonly host?: string
  readonly port?: number
}

Object.assign(net.Socket.prototype, {
  connect(this: net.Socket, ...given: unknown[]) {
    const flat = (Array.isArray(given[0]) ? given[0] : given) as unknown[]
    const [to, callback] = [flat[0] as Destination, flat.at(-1)]
    const fail = (error: Error): void => {
      setImmediate(() => this.destroy(error))
    }
    if (typeof callback === 'function') this.once('connect', callback as () => void)
    if (to.path !== undefined) {
      const path = to.path.replace(/^\/var\//, '/private/var/')
      if (!allows({ operation: 'network-outbound', path })) fail(refused('EPERM', 'connect'))
      else connectFirst.call(this, { path: to.path })
      return this
    }
    const host = plain(to.host ?? '127.0.0.1')
    const port = to.port ?? 0
    if (!allows({ operation: 'network-outbound', proto: 'tcp', host, port })) {
      fail(refused('EPERM', 'connect'))
      return this
    }
    transmit({ proto: 'tcp', to: host, port }, ({ verdict, address, port: there }) => {
      if (this.destroyed) return
      if (verdict === 'refused') fail(refused('ECONNREFUSED', 'connect'))
      if (verdict === 'local')
        connectFirst.call(this, { ...to, host: really(address), port: there })
    })
    return this
  },
})

const listenFirst = Reflect.get(net.Server.prototype, 'listen') as (...args: unknown[]) => unknown
Object.assign(net.Server.prototype, {
  listen(this: net.Server, ...given: unknown[]) {
    const port = typeof given[0] === 'number' ? given[0] : (given[0] as Destination).port
    if (port !== undefined && !mayBind('tcp', port)) {
      setImmediate(() => this.emit('error', refused('EPERM', 'listen')))
      return this
    }
    this.once('listening', () => {
      const bound = this.address()
      if (typeof bound === 'object' && bound !== null) own(bound.port)
    })
    Reflect.apply(listenFirst, this, given)
    return this
  },
})

function mayBind(proto: string, port: number): boolean {
  return allows({ operation: 'network-bind', proto, port, host: '*' })
}

function own(port: number): void {
  ask(['model-listen', String(port), String(uid)], () => undefined)
}

const remotes = new WeakMap<dgram.Socket, { readonly port: number; readonly host: string }>()
const sendFirst = Reflect.get(dgram.Socket.prototype, 'send') as (...args: unknown[]) => void
const bindFirst = Reflect.get(dgram.Socket.prototype, 'bind') as (
  ...args: unknown[]
) => dgram.Socket
Object.assign(dgram.Socket.prototype, {
  connect(this: dgram.Socket, port: number, host: string, callback?: () => void) {
    remotes.set(this, { port, host })
    if (callback !== undefined) setImmediate(callback)
  },
  bind(this: dgram.Socket, ...given: unknown[]) {
    // Node binds by itself before it sends: to any port, which is no wish of the program.
    if (typeof given[0] === 'number' && given[0] !== 0) {
      if (!mayBind('udp', given[0])) {
        setImmediate(() => this.emit('error', refused('EPERM', 'bind')))
        return this
      }
      own(given[0])
    }
    Reflect.apply(bindFirst, this, given)
    return this
  },
  send(this: dgram.Socket, ...given: unknown[]) {
    // Out of the socket's own queue: judged before it was put there.
    if (Array.isArray(given[0])) {
      Reflect.apply(sendFirst, this, given)
      return
    }
    const callback = given.find((each) => typeof each === 'function') as
      ((error: Error | null) => void) | undefined
    const known = remotes.get(this)
    const port = known?.port ?? (given[1] as number)
    const host = plain(known?.host ?? (given[2] as string))
    const data = Buffer.from(given[0] as string | Buffer)
    const done = (error: Error | null): void => {
      setImmediate(() => callback?.(error))
    }
    if (!allows({ operation: 'network-outbound', proto: 'udp', host, port })) {
      done(refused('EPERM', 'send'))
      return
    }
    transmit({ proto: 'udp', to: host, port, data: data.toString('hex') }, (told) => {
      const { verdict, address } = told
      if (verdict === 'local')
        Reflect.apply(sendFirst, this, [
          data,
          told.port,
          really(address),
          callback ?? (() => undefined),
        ])
      else done(verdict === 'refused' ? refused('ECONNREFUSED', 'send') : null)
    })
  },
})

const lookupFirst = dnsPromises.lookup as (...args: unknown[]) => Promise<unknown>
Object.assign(dnsPromises, {
  lookup: async (name: string, ...more: unknown[]) => {
    if (name !== os.hostname()) return await lookupFirst(name, ...more)
    const isReached =
      allows({ operation: 'network-outbound', path: '/private/var/run/mDNSResponder' }) ||
      allows({ operation: 'mach-lookup', service: 'com.apple.dnssd.service' })
    if (!isReached) throw refused('ENOTFOUND', `getaddrinfo ${name}`)
    return { address: '192.168.1.10', family: 4 }
  },
})

if (profile !== undefined) {
  const guard = (
    name: 'readFileSync' | 'readdirSync' | 'writeFileSync' | 'appendFileSync',
  ): void => {
    const first = fs[name] as (...args: unknown[]) => unknown
    const operation = name.startsWith('read') ? 'file-read*' : 'file-write*'
    Object.assign(fs, {
      [name]: (path: unknown, ...more: unknown[]): unknown => {
        if (typeof path === 'string' && path.startsWith('/') && !allows({ operation, path }))
          throw refused('EPERM', 'operation not permitted')
        return first(path, ...more)
      },
    })
  }
  for (const name of ['readFileSync', 'readdirSync', 'writeFileSync', 'appendFileSync'] as const)
    guard(name)
}

/** Their mode on macOS; a profile of whatever content keeps them from being executed. */
const setuid = new Set(['/bin/ps', '/usr/bin/sudo', '/usr/bin/top', '/usr/bin/crontab'])
const ofMacOs = new Set([...setuid, '/usr/bin/open', '/usr/bin/osascript', '/bin/launchctl'])
type Done = (error: Error | null, stdout: string, stderr: string) => void
const execFirst = childProcess.execFile as unknown as (...args: unknown[]) => unknown
Object.assign(childProcess, {
  execFile: (program: string, args: readonly string[], options: unknown, done: Done) => {
    const answer = (error: Error | null, stdout = ''): void => {
      setImmediate(() => {
        done(error, stdout, '')
      })
    }
    const kind = args[3] ?? ''
    if (program === 'perl' && (kind === 'icmp' || kind === 'icmp6')) {
      // A socket that has no ports: no rule with any names it.
      if (!allows({ operation: 'network-outbound' }))
        answer(null, 'socket: Operation not permitted')
      else
        transmit({ proto: 'icmp', to: args[4] ?? '', port: 0 }, () => {
          answer(null, 'sent')
        })
      return
    }
    if (!ofMacOs.has(program)) return execFirst(program, args, options, done)
    const isClosed = profile !== undefined && setuid.has(program)
    const isAllowed = !isClosed && allows({ operation: 'process-exec*', path: program })
    answer(isAllowed ? null : refused('EPERM', `spawn ${program}`))
    return
  },
})

syncBuiltinESMExports()
