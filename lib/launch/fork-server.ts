/**
 * What a jail's start needs of processes, forked by one small server that is started once and early: each spawn of
 * Node's own copies the tables of all its memory first, and waits for the program to be there.
 * Invariant: a child of the server is, to whoever uses it, a child like any other; one of each kind is forked, what comes
 * after it is spawned.
 */
import {
  spawn,
  type ChildProcess,
  type ChildProcessWithoutNullStreams,
  type Serializable,
} from 'node:child_process'
import { EventEmitter } from 'node:events'
import { constants } from 'node:os'
import type { Duplex } from 'node:stream'
import { sessionEnvironment, sessionOver } from '../system/child-processes.js'
import { parseMachine } from '../system/syscall-numbers.js'
import type { Argv, System } from '../system/types.js'
import { callsText } from './fence-script.js'
import { forkServerScript } from './fork-server-script.js'
import { signalName } from './status-lines.js'
import { blockedSignals } from './step-scripts.js'

/** The server's own descriptor; the others are those of the children to be, which it has from its start. */
const control = 7
/** From the server's to the child's. */
const kinds = {
  /** With the standard streams and the process group of this process, as `fds` of `launch-plan.ts` has it. */
  launch: [3, 4, 5, 6].map((fd) => [fd, fd] as const),
  session: [8, 9, 10].map((fd, n) => [fd, n] as const),
  /** Its IPC channel, which Node makes for the server; its report, its words, its standard error. */
  gate: [11, 12, 13, 14].map((fd, n) => [fd, [3, 4, 5, 2][n] ?? 0] as const),
} as const
const channel = 11
const descriptors = 15
type Kind = keyof typeof kinds

export interface ForkRequest {
  readonly env: Readonly<Record<string, string>>
  /** Words of a program, its absolute path first; or those of a text in perl, which comes first. */
  readonly run: readonly [kind: 'exec' | 'perl', first: string, ...rest: string[]]
}

/** Ends with `close`, or with this process. */
export class ForkServer {
  readonly #server: ChildProcess
  readonly #children = new Map<string, ForkedChild>()
  #expected: Argv | undefined
  readonly #answers = new Map<string, ((text: string) => void)[]>([
    ['core', []],
    ['dump', []],
    ['user', []],
  ])
  #ended = false

  private constructor(perl: string) {
    const argv = [callsText(parseMachine(process.arch)), process.pid, blockedSignals, control]
    this.#server = spawn(perl, ['-e', forkServerScript, '--', ...argv.map(String)], {
      cwd: '/',
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
      serialization: 'json',
      stdio: Array.from({ length: descriptors }, (_, fd) =>
        fd < 3 ? 'inherit' : fd === channel ? 'ipc' : 'pipe',
      ),
    })
    const end = (): void => {
      this.#ended = true
      for (const child of this.#children.values()) child.end(null, 'SIGKILL')
      for (const waiting of this.#answers.values())
        for (const settle of waiting.splice(0)) settle('')
    }
    this.#server.on('error', end)
    this.#server.on('exit', end)
    // Out of descriptors, Node gives a child without streams, whatever its type says.
    if ((this.#server.stdio as unknown) === undefined) throw new Error('no descriptor is free')
    for (let fd = 3; fd < descriptors; fd++) this.#stream(fd)?.on('error', () => undefined)
    let text = ''
    this.#stream(control)
      ?.setEncoding('utf8')
      .on('data', (data: string) => {
        const lines = (text + data).split('\n')
        text = lines.pop() ?? ''
        for (const line of lines) this.#hear(line)
      })
  }

  /** Undefined: there is no process or descriptor for it. Whoever would use it spawns instead, and hears why not. */
  static start(perl: string): ForkServer | undefined {
    try {
      return new ForkServer(perl)
    } catch {
      return undefined
    }
  }

  /** The parent of what is forked. */
  get pid(): number {
    return this.#server.pid ?? 0
  }

  /** Forks the child of a kind; undefined: it was before, or the server is no more. */
  fork(kind: Kind, request: ForkRequest): ChildProcess | undefined {
    // As far as it is used, it is one.
    return this.#fork(kind, request) as unknown as ChildProcess | undefined
  }

  /** A child that was forked before, once; undefined: there is none that lives. */
  take(kind: Kind): ChildProcess | undefined {
    const child = this.#children.get(kind)
    if (child?.isTaken !== false || child.hasEnded) return undefined
    child.isTaken = true
    return child as unknown as ChildProcess
  }

  #fork(kind: Kind, { env, run }: ForkRequest): ForkedChild | undefined {
    if (this.#ended || this.#children.has(kind)) return undefined
    const streams: (Duplex | null)[] = []
    for (const [from, to] of kinds[kind]) streams[to] = this.#stream(from) ?? null
    const child = new ForkedChild({
      name: run[1],
      streams,
      kill: (signal) => {
        this.#ask(['kill', kind, String(constants.signals[signal])])
      },
      ...(kind === 'gate' ? { channel: this.#server } : {}),
    })
    this.#children.set(kind, child)
    const map = kinds[kind].map(([from, to]) => `${from}:${to}`).join(',')
    const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
    const own = kind === 'launch' ? '0' : '1'
    this.#ask(['fork', kind, map, own, String(variables.length), ...variables, ...ownNetwork(run)])
    return child
  }

  /**
   * A chain of a table of family inet as the kernel has it, its rules and its table with it: bytes in hexadecimal, the
   * same as long as nobody changed it. Empty: there is none, or it cannot be told.
   */
  async dumpChain(table: string, chain: string): Promise<string> {
    return await this.#answer('dump', table, chain)
  }

  /** False: no process has this real uid, which the kernel knows without a look at every one. */
  async isUser(uid: number): Promise<boolean> {
    return (await this.#answer('user', String(uid))) !== '0'
  }

  /** Of this process. False: they may still be written. */
  async forbidCoreDumps(): Promise<boolean> {
    return (await this.#answer('core')) === '1'
  }

  /** Empty: the server is no more. */
  #answer(what: string, ...words: readonly string[]): Promise<string> {
    return new Promise((resolve) => {
      if (this.#ended) {
        resolve('')
        return
      }
      this.#answers.get(what)?.push(resolve)
      this.#ask([what, ...words])
    })
  }

  /** Forks the session that will be asked for. */
  expectSession(argv: Argv): void {
    this.#expected = argv
    this.#fork('session', { env: sessionEnvironment, run: ['exec', ...argv] })
  }

  /**
   * The same door to the operating system, but that the first session is forked, if it was not before; and that every
   * process is looked at for a uid only where one has it as its real uid. What a jail starts always does; a process that
   * is another user's, and has only taken on the jail's, as by a set-user-ID file, is none of the jail's.
   */
  over(system: System): System {
    return {
      ...system,
      processesOf: async (uid) => ((await this.isUser(uid)) ? await system.processesOf(uid) : []),
      openSoon: async (argv) => {
        const child = this.#session(argv)
        if (child === undefined) return system.open(argv)
        await child.begun
        return sessionOver(child as unknown as ChildProcessWithoutNullStreams)
      },
    }
  }

  #session(argv: Argv): ForkedChild | undefined {
    if (this.#expected === undefined) this.expectSession(argv)
    const child = this.#children.get('session')
    if (child === undefined || child.isTaken || child.hasEnded) return undefined
    child.isTaken = true
    if (this.#expected?.join('\0') === argv.join('\0')) return child
    // Another than was expected.
    child.kill('SIGKILL')
    return undefined
  }

  /** All that is left of it and its children is ended. Idempotent. */
  close(): void {
    if (this.#server.connected) this.#server.disconnect()
    this.#server.kill('SIGKILL')
    for (let fd = 3; fd < descriptors; fd++) this.#stream(fd)?.destroy()
  }

  #stream(fd: number): Duplex | null | undefined {
    return this.#server.stdio[fd as 3] as Duplex | null | undefined
  }

  #ask(fields: readonly string[]): void {
    const body = Buffer.from(fields.map((field) => `${field}\0`).join(''))
    const size = Buffer.alloc(4)
    size.writeUInt32BE(body.length)
    this.#stream(control)?.write(Buffer.concat([size, body]))
  }

  #hear(line: string): void {
    const [what, kind = '', number = ''] = line.split(' ')
    const waiting = this.#answers.get(what ?? '')
    if (waiting !== undefined) {
      waiting.shift()?.(kind)
      return
    }
    const child = this.#children.get(kind)
    if (what === 'begun') child?.begin(Number(number))
    // wait(2): the signal that ended it in the low bits, its exit code above them.
    else if ((Number(number) & 0x7f) === 0) child?.end(Number(number) >> 8, null)
    else child?.end(null, signalName(Number(number) & 0x7f))
  }
}

/** What `unshare --net --` does the server does itself: a program less to start. */
function ownNetwork(run: ForkRequest['run']): readonly string[] {
  const [kind, , net, end, ...program] = run
  return kind === 'exec' && net === '--net' && end === '--' ? ['network', ...program] : run
}

interface ForkedOptions {
  /** Of the program, for messages. */
  readonly name: string
  /** By the child's descriptors. */
  readonly streams: readonly (Duplex | null | undefined)[]
  readonly kill: (signal: NodeJS.Signals) => void
  /** Whose IPC channel is the child's. */
  readonly channel?: ChildProcess
}

/** A process of the server's, in the shape of a `ChildProcess`. */
class ForkedChild extends EventEmitter {
  readonly stdio: readonly (Duplex | null | undefined)[]
  readonly spawnfile: string
  pid: number | undefined
  exitCode: number | null = null
  signalCode: NodeJS.Signals | null = null
  /** It has a pid, or never will. */
  readonly begun: Promise<void>
  readonly #options: ForkedOptions
  isTaken = false
  hasEnded = false
  #begin: () => void = () => undefined

  constructor(options: ForkedOptions) {
    super()
    this.#options = options
    this.stdio = options.streams
    this.spawnfile = options.name
    this.begun = new Promise((resolve) => (this.#begin = resolve))
    options.channel?.on('message', (message) => this.emit('message', message))
  }

  get stdin(): Duplex | null {
    return this.stdio[0] ?? null
  }

  get stdout(): Duplex | null {
    return this.stdio[1] ?? null
  }

  get stderr(): Duplex | null {
    return this.stdio[2] ?? null
  }

  get connected(): boolean {
    return this.#options.channel?.connected ?? false
  }

  send(message: Serializable, ...more: readonly never[]): boolean {
    return this.#options.channel?.send(message, ...more) ?? false
  }

  disconnect(): void {
    this.#options.channel?.disconnect()
  }

  kill(signal: NodeJS.Signals = 'SIGTERM'): boolean {
    if (!this.hasEnded) this.#options.kill(signal)
    return !this.hasEnded
  }

  begin(pid: number): void {
    this.pid = pid
    this.#begin()
  }

  /** Once; `close` follows when its streams have told all. */
  end(code: number | null, signal: NodeJS.Signals | null): void {
    if (this.hasEnded) return
    this.hasEnded = true
    this.exitCode = code
    this.signalCode = signal
    this.#begin()
    this.emit('exit', code, signal)
    this.stdin?.destroy()
    const open = this.stdio.filter((stream) => stream?.closed === false)
    let left = open.length
    const close = (): void => {
      if (--left <= 0) this.emit('close', code, signal)
    }
    if (open.length === 0) close()
    for (const stream of open) {
      stream?.on('close', close)
      if (stream?.readableFlowing !== true) stream?.resume()
    }
  }
}
