/**
 * Starts a command in its jail on macOS and reports what becomes of it.
 * Invariant: nothing of agentjail's own environment reaches it; what is left of the uid is ended by whoever asked.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { accessSync, constants, realpathSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { errorMessage, JailError } from '../../errors.js'
import type { PortRange } from '../../policy/types.js'
import type { Argv, System } from '../../system/types.js'
import type { Ending, LaunchSpec, Running } from '../types.js'
import { macArgv } from './argv.js'
import { macEnvironment, type MacProxy } from './environment.js'
import { toolPrefix } from '../places.js'
import { seatbeltProfile } from './seatbelt.js'

export interface MacLaunchRequest {
  readonly spec: LaunchSpec
  readonly proxy?: MacProxy
  readonly ca?: { readonly own: string; readonly bundle: string }
  /** Ports that pf lets through, or takes over. */
  readonly tcp: readonly PortRange[]
  readonly udp: readonly PortRange[]
  readonly loopback: { readonly connect: readonly number[]; readonly listen: readonly number[] }
  readonly transparent: boolean
  /** agentjail's state and logs. */
  readonly hidden: readonly string[]
}

/** Starts the chain; a test leads it to a modelled Mac. */
export type Spawn = (
  argv: Argv,
  options: {
    readonly cwd: string
    readonly env: Readonly<Record<string, string>>
    /** Standard input and output; absent: those of the caller. */
    readonly stdio?: LaunchSpec['stdio']
  },
) => ChildProcess

/** What macOS has no way to hold for a command: said once, never passed over in silence. */
const heldNowhere = ['memory', 'cpu', 'pids', 'openFiles', 'tmp'] as const

/** @throws JailError LAUNCH where it could not be started at all. */
export function launchMac(
  system: System,
  request: MacLaunchRequest,
  start: Spawn = spawnInherited,
): Promise<Running> {
  const { spec, proxy, ca } = request
  const env = macEnvironment({
    env: spec.env,
    home: spec.user.home,
    ...(proxy === undefined ? {} : { proxy }),
    ...(ca === undefined ? {} : { ca }),
  })
  const program = findProgram(spec.command[0], env.get('PATH') ?? '', spec.cwd)
  if (typeof program === 'number') return Promise.resolve(ended(program))
  const without = new Set(spec.without)
  const profile = seatbeltProfile({
    home: spec.user.home,
    cwd: realOr(spec.cwd),
    fs: spec.fs,
    protect: spec.protect,
    hidden: request.hidden,
    programs: programTops([program.real, program.path]),
    ...(proxy === undefined ? {} : { proxy: proxy.port }),
    connect: request.loopback.connect,
    listen: request.loopback.listen,
    tcp: request.tcp,
    udp: request.udp,
    systemResolver: request.transparent,
    openNetwork: without.has('network'),
  })
  const argv = macArgv({
    user: spec.user,
    env,
    profile: without.has('profile') ? undefined : profile,
    command: [program.path, ...spec.command.slice(1)],
  })
  const child = start(argv, {
    cwd: spec.cwd,
    env: Object.fromEntries(env),
    ...(spec.stdio === undefined ? {} : { stdio: spec.stdio }),
  })
  const missing = heldNowhere.filter((limit) => spec.limits[limit] !== undefined)
  const notes = missing.map((limit) => `limits.${limit} is not held on macOS`)
  return begun(new MacRunning(system, child, spec.user.uid, notes))
}

/** Waits until it is certain that the chain was started. */
function begun(running: MacRunning): Promise<Running> {
  return new Promise((resolve, reject) => {
    running.child.once('spawn', () => {
      resolve(running)
    })
    running.child.once('error', (error) => {
      reject(
        new JailError('LAUNCH', `cannot start the command: ${error.message}`, { cause: error }),
      )
    })
  })
}

/** As execvp(3) looks: 127 not found, 126 found but not executable. */
function findProgram(
  name: string,
  path: string,
  cwd: string,
): { readonly path: string; readonly real: string } | 126 | 127 {
  const places = name.includes('/')
    ? [join(name.startsWith('/') ? '/' : cwd, name)]
    : path
        .split(':')
        .filter((dir) => dir.startsWith('/'))
        .map((dir) => join(dir, name))
  let result: 126 | 127 = 127
  for (const place of places) {
    try {
      if (!statSync(place).isFile()) continue
      result = 126
      accessSync(place, constants.X_OK)
      return { path: place, real: realpathSync(place) }
    } catch {
      // The next place.
    }
  }
  return result
}

/** Directory trees that hold a program outside the system's own: shown to the jail, read only. */
function programTops(paths: readonly string[]): string[] {
  return paths
    .filter((path) => path.startsWith('/Users/') || path.startsWith('/private/'))
    .map((path) => toolPrefix(path, new Set([path.split('/').slice(0, 3).join('/')])))
}

function realOr(path: string): string {
  try {
    return realpathSync(path)
  } catch (error) {
    throw new JailError('LAUNCH', `the working directory cannot be used: ${errorMessage(error)}`)
  }
}

function spawnInherited(
  [program, ...args]: Argv,
  { cwd, env, stdio }: Parameters<Spawn>[1],
): ChildProcess {
  const own = [stdio?.input ?? 'inherit', stdio?.output ?? 'inherit', 'inherit'] as const
  return spawn(program, args, { cwd, env, stdio: [...own] })
}

class MacRunning implements Running {
  readonly commandPid = undefined
  readonly initPid: number
  readonly notes: readonly string[]
  readonly ended: Promise<Ending>
  readonly child: ChildProcess
  readonly #system: System
  readonly #uid: number

  constructor(system: System, child: ChildProcess, uid: number, notes: readonly string[]) {
    this.child = child
    this.initPid = child.pid ?? 0
    this.#system = system
    this.#uid = uid
    this.notes = notes
    this.ended = new Promise((resolve) => {
      // sudo ends as its command did: by the same code, or by the same signal.
      child.on('close', (code, signal) => {
        resolve(signal === null ? { code: code ?? 128 } : { signal })
      })
    })
  }

  /** sudo passes signals on. Those of the keyboard it gets itself, from the terminal, as this process does. */
  signal(signal: NodeJS.Signals): void {
    const fromKeyboard = ['SIGINT', 'SIGQUIT', 'SIGTSTP', 'SIGWINCH', 'SIGCONT'].includes(signal)
    if (!(fromKeyboard && process.stdin.isTTY)) this.child.kill(signal)
  }

  /** sudo runs the command on a terminal of its own and stops with it by itself. */
  onStopped(): void {
    return
  }

  onContinued(): void {
    return
  }

  onGroupSignal(): void {
    return
  }

  kill(): void {
    void this.#killAll()
  }

  async #killAll(): Promise<void> {
    for (const pid of await this.#system.processesOf(this.#uid)) this.#system.kill(pid, 'SIGKILL')
    this.child.kill('SIGKILL')
  }

  limitsHit(): Promise<readonly string[]> {
    return Promise.resolve([])
  }
}

/** A command that could not be executed. */
function ended(code: 126 | 127): Running {
  return {
    commandPid: undefined,
    initPid: 0,
    notes: [],
    ended: Promise.resolve({ code }),
    signal: () => undefined,
    onStopped: () => undefined,
    onContinued: () => undefined,
    onGroupSignal: () => undefined,
    kill: () => undefined,
    limitsHit: () => Promise.resolve([]),
  }
}
