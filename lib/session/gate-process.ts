/**
 * The gate as the warden sees it: started with its sockets open, talked to over Node's IPC.
 * Invariant: nothing the gate says is trusted; it ends with the warden, and with it the jail's way out.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess, SendHandle } from 'node:child_process'
import { existsSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packageRoot } from './host.js'
import { errorMessage, JailError } from '../errors.js'
import type { Writable } from 'node:stream'
import { callsText, fenceArgv } from '../launch/fence-script.js'
import type { ForkServer } from '../launch/fork-server.js'
import { parseMachine } from '../system/syscall-numbers.js'
import type { Argv } from '../system/types.js'
import type { FromGate, GateConfig, Listener, ToGate } from '../gate/protocol.js'
import { gateScript } from './gate-script.js'

export interface GateTools {
  readonly perl: string
  readonly nsenter: string
  readonly setpriv: string
  readonly bwrap: string
  readonly node: string
  /** False: none can be made here, and the gate sees the files that every account may read. */
  readonly namespaces: boolean
}

/** A listener to be opened: `meant` is the destination port of the jail's packets. */
export interface ListenerSpec {
  readonly proto: 'tcp' | 'udp'
  readonly meant: number
  /** The explicit proxy (macOS), which serves no destination port. */
  readonly role?: 'proxy'
}

export interface GateRequest {
  readonly tools: GateTools
  /** Where the sockets are opened; absent: here, on loopback, on any free port. It may only just be coming to be. */
  readonly netns?: string
  /** With `netns`: its rules are in and read back. Rejects: nothing is opened. */
  readonly installed?: Promise<unknown>
  readonly specs: readonly ListenerSpec[]
  readonly user: { readonly uid: number; readonly gid: number }
  /** Forks it, where it can; absent: it is spawned. */
  readonly server?: ForkServer
}

export interface OpenedListener extends Listener {
  /** The port it really has; differs from `port` on the host's loopback. */
  readonly actual: number
}

export interface GateProcess {
  readonly pid: number
  /** Settles when all sockets listen: from here on the kernel takes connections for it. */
  readonly listeners: Promise<readonly OpenedListener[]>
  /** Node starts, if it has not. Settles with the jail CA's certificate (if asked for) when everything is served. */
  start(config: GateConfig): Promise<string | undefined>
  /** `handle`: a native socket handle that travels along. */
  send(message: ToGate, handle?: unknown): void
  onMessage(listener: (message: FromGate) => void): void
  onExit(listener: (why: string) => void): void
  kill(): void
}

/** One that becomes a gate only when it is started, or somebody wants something of it. */
export interface LazyGate extends GateProcess {
  /** Before `start`: true when it ended, since nothing waits at its sockets; false when it has become the gate. */
  endIdle(): Promise<boolean>
}

const readyTimeout = 15_000
/** The gate's program: one file where the package has it. */
export const gateMain =
  ['../bundle/gate.cjs', '../gate/main.js']
    .map((path) => fileURLToPath(new URL(path, import.meta.url)))
    .find((path) => existsSync(path)) ?? ''
/** Installed as a dependency, its own dependencies may lie beside it. */
export const modulesRoot =
  basename(dirname(packageRoot)) === 'node_modules' ? dirname(packageRoot) : packageRoot

/** Spawns it; the promises of the result tell how far it is. */
export function spawnGate(request: GateRequest): LazyGate {
  const gate = new GateChild(forkGate(request) ?? spawnChain(request), request.specs)
  request.installed?.then(
    () => {
      gate.tell('go')
    },
    () => {
      gate.kill()
    },
  )
  return gate
}

/** For a child that another chain made (macOS): descriptor 3 is its IPC channel, 4 the report of its sockets. */
export function gateOver(child: ChildProcess, specs: readonly ListenerSpec[]): GateProcess {
  return new GateChild(child, specs)
}

const gateEnvironment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' }

function forkGate(request: GateRequest): ChildProcess | undefined {
  const { server } = request
  return server?.fork('gate', {
    // What Node tells a child of its own of the channel.
    env: {
      ...gateEnvironment,
      ...{ NODE_CHANNEL_FD: '3', NODE_CHANNEL_SERIALIZATION_MODE: 'json' },
    },
    run: ['perl', ...gateChain(request, server.pid)],
  })
}

function spawnChain(request: GateRequest): ChildProcess {
  const [text, ...words] = gateChain(request, process.pid)
  return spawn(request.tools.perl, ['-e', text, '--', ...words], {
    cwd: '/',
    env: gateEnvironment,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc', 'pipe', 'pipe'],
    serialization: 'json',
    // A group of its own: what the terminal sends to the command's group is not for it.
    detached: true,
  })
}

/** The chain that ends as the gate: sockets, back to the host's network, everything dropped, Node. Text and words. */
function gateChain({ tools, netns, specs, user }: GateRequest, parent: number): Argv {
  return [
    gateScript,
    ...[callsText(parseMachine(process.arch)), String(parent)],
    tools.namespaces ? '1' : '0',
    netns ?? '-',
    ...specs.map(({ proto, meant }) => `${proto}:${netns === undefined ? 0 : meant}`),
    '--',
    ...(tools.namespaces ? boxedNode : plainNode)(tools, user, gateMain),
  ]
}

/** A module of agentjail's as the gate's user, in a root of its own, with nothing left to drop. */
export function unprivilegedNode(
  tools: Pick<GateTools, 'perl' | 'bwrap' | 'setpriv' | 'node'>,
  user: { readonly uid: number; readonly gid: number },
  main: string,
): string[] {
  return [
    ...fenceArgv(tools.perl, parseMachine(process.arch), process.pid, 'agentjail-gate-fence'),
    ...boxedNode(tools, user, main),
  ]
}

/** The same without the fence, for what is in one already. */
function boxedNode(
  tools: Pick<GateTools, 'bwrap' | 'setpriv' | 'node'>,
  user: { readonly uid: number; readonly gid: number },
  main: string,
): string[] {
  return [tools.bwrap, ...gateRoot(tools.node), '--', ...plainNode(tools, user, main)]
}

/** With the right to nothing; it dies with what started it, in a box or not. */
function plainNode(
  tools: Pick<GateTools, 'setpriv' | 'node'>,
  user: { readonly uid: number; readonly gid: number },
  main: string,
): string[] {
  return [
    tools.setpriv,
    '--pdeathsig=KILL',
    `--reuid=${user.uid}`,
    `--regid=${user.gid}`,
    '--clear-groups',
    '--inh-caps=-all',
    '--ambient-caps=-all',
    '--bounding-set=-all',
    '--no-new-privs',
    '--',
    tools.node,
    '--disable-proto=delete',
    main,
  ]
}

/** What the gate can see: the system's programs, Node, agentjail's own code. No file of anybody's. */
function gateRoot(node: string): string[] {
  const system = ['/usr', '/bin', '/sbin', '/lib', '/lib32', '/lib64'].flatMap((path) => [
    '--ro-bind-try',
    path,
    path,
  ])
  const nodeRoot = dirname(dirname(node))
  const etc = [
    '/etc/ssl',
    '/etc/pki',
    '/etc/ca-certificates',
    '/etc/ld.so.cache',
    '/etc/localtime',
    '/etc/alternatives',
  ]
  return [
    '--die-with-parent',
    '--unshare-pid',
    '--unshare-ipc',
    '--unshare-uts',
    // Before the package: it may lie below.
    '--tmpfs',
    '/tmp',
    ...parentsOf([...etc, nodeRoot, modulesRoot]),
    ...system,
    ...etc.flatMap((path) => ['--ro-bind-try', path, path]),
    ...[nodeRoot, modulesRoot].flatMap((path) => ['--ro-bind', path, path]),
    '--proc',
    '/proc',
    '--dev',
    '/dev',
    '--chdir',
    '/',
  ]
}

/** bubblewrap makes missing parents 0700, which the gate's user could not pass. */
function parentsOf(paths: readonly string[]): string[] {
  const parents = new Set<string>()
  for (const path of paths) {
    const parts = path.split('/').slice(1, -1)
    for (let depth = 1; depth <= parts.length; depth++)
      parents.add(`/${parts.slice(0, depth).join('/')}`)
  }
  const bound = /^\/(usr|bin|sbin|lib|lib32|lib64)(\/|$)/
  return [...parents]
    .filter((path) => !bound.test(path))
    .sort()
    .flatMap((path) => ['--perms', '0755', '--dir', path])
}

class GateChild implements LazyGate {
  readonly listeners: Promise<readonly OpenedListener[]>
  readonly #child: ChildProcess
  readonly #listening: ((message: FromGate) => void)[] = []
  readonly #exits: ((why: string) => void)[] = []
  #stderr = ''
  #ended: string | undefined
  #killed = false
  readonly #active: Promise<void>
  #becomeActive: () => void = () => undefined

  constructor(child: ChildProcess, specs: readonly ListenerSpec[]) {
    this.#child = child
    if (hasNoStreams(child)) {
      child.on('error', () => undefined)
      throw new JailError('GATE', 'the gate cannot be started: no descriptor is free for it')
    }
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-2000)
    })
    child.on('error', (error) => {
      this.#end(error.message)
    })
    child.on('exit', () => {
      if (this.#killed) this.#end('it was killed')
    })
    child.on('close', (code, signal) => {
      const lines = this.#stderr.trim().split('\n')
      // Node's own last line is its version; what went wrong is in the one that names the error.
      const last = lines.find((line) => /^[A-Za-z]*Error\b/.test(line)) ?? lines.at(-1) ?? ''
      this.#end(last === '' ? `it ended with ${signal ?? `code ${code ?? ''}`}` : last)
    })
    child.on('message', (message) => {
      if (isFromGate(message)) for (const listener of this.#listening) listener(message)
    })
    this.#active = new Promise((resolve) => (this.#becomeActive = resolve))
    this.#words()?.on('error', () => undefined)
    this.listeners = this.#readReport(child.stdio[4], specs)
    // Its rejection is the caller's when it asks; until then it is no unhandled one.
    this.listeners.catch(() => undefined)
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  start(config: GateConfig): Promise<string | undefined> {
    return this.#race('does not become ready', (resolve) => {
      this.onMessage((message) => {
        if (message.type === 'ready') resolve(message.ca)
      })
      this.send({ type: 'start', config })
    })
  }

  send(message: ToGate, handle?: unknown): void {
    if (this.#child.connected) this.#child.send(message, handle as SendHandle, () => undefined)
  }

  onMessage(listener: (message: FromGate) => void): void {
    this.#listening.push(listener)
  }

  onExit(listener: (why: string) => void): void {
    if (this.#ended === undefined) this.#exits.push(listener)
    else listener(this.#ended)
  }

  /** To its first step. */
  tell(word: 'go' | 'end'): void {
    this.#words()?.write(`${word}\n`)
  }

  /** None where another chain made the child. */
  #words(): Writable | undefined {
    return (this.#child.stdio as readonly unknown[])[5] as Writable | undefined
  }

  endIdle(): Promise<boolean> {
    return new Promise((resolve) => {
      void this.#active.then(() => {
        resolve(false)
      })
      this.onExit(() => {
        resolve(true)
      })
      this.tell('end')
    })
  }

  /** Its channel and pipes too: what is being ended is not waited for. Node then tells of no `close`. */
  kill(): void {
    this.#killed = true
    if (this.#child.connected) this.#child.disconnect()
    this.#child.kill('SIGKILL')
    this.#child.stderr?.destroy()
    const report = this.#child.stdio[4]
    if (report !== null && report !== undefined) report.destroy()
    this.#words()?.destroy()
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) this.#end('it was killed')
  }

  #end(why: string): void {
    if (this.#ended !== undefined) return
    this.#ended = why
    for (const listener of this.#exits) listener(why)
  }

  #readReport(pipe: unknown, specs: readonly ListenerSpec[]): Promise<readonly OpenedListener[]> {
    const stream = pipe as NodeJS.ReadableStream
    return this.#race('cannot open its sockets', (resolve) => {
      let text = ''
      stream.setEncoding('utf8')
      stream.on('data', (chunk: string) => {
        text += chunk
        const end = text.indexOf('end\n')
        if (end >= 0) resolve(parseReport(text.slice(0, end), specs))
        if (text.endsWith('active\n')) this.#becomeActive()
      })
    })
  }

  #race<T>(failure: string, work: (resolve: (value: T) => void) => void): Promise<T> {
    return new Promise((resolve, reject) => {
      const fail = (why: string): void => {
        clearTimeout(timer)
        reject(new JailError('GATE', `the gate ${failure}: ${why}`))
      }
      const timer = setTimeout(() => {
        fail(`no answer within ${readyTimeout / 1000} s`)
      }, readyTimeout)
      this.onExit(fail)
      work((value) => {
        clearTimeout(timer)
        resolve(value)
      })
    })
  }
}

/** Out of descriptors, Node gives a child without streams, whatever its type says. */
function hasNoStreams(child: { readonly stdio: unknown }): boolean {
  return child.stdio === undefined || child.stdio === null
}

function parseReport(text: string, specs: readonly ListenerSpec[]): OpenedListener[] {
  const lines = text
    .trimEnd()
    .split('\n')
    .filter((line) => line !== '')
  const perSpec = specs.length === 0 ? 1 : lines.length / specs.length
  return lines.map((line, index): OpenedListener => {
    const [proto, family, fd, actual] = line.split(' ')
    const spec = specs[Math.floor(index / perSpec)]
    if (spec === undefined || spec.proto !== proto)
      throw new JailError('GATE', `unexpected report: ${errorMessage(line)}`)
    return {
      fd: Number(fd),
      proto: spec.proto,
      role: spec.role ?? (spec.meant === 53 ? 'dns' : 'relay'),
      port: spec.meant,
      family: family === '4' ? 4 : 6,
      actual: Number(actual),
    }
  })
}

const messageTypes = ['ready', 'decisions', 'client', 'pin', 'updated', 'serving', 'pong', 'fatal']

function isFromGate(message: unknown): message is FromGate {
  return (
    typeof message === 'object' &&
    message !== null &&
    'type' in message &&
    typeof message.type === 'string' &&
    messageTypes.includes(message.type)
  )
}
