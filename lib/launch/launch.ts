/**
 * Starts a command in its jail and reports what becomes of it.
 * Invariant: the command's variables and arguments travel on a pipe that only the last step, already
 * the service user, reads; no process that still has privilege ever has them in its environment.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { constants } from 'node:os'
import type { Readable, Writable } from 'node:stream'
import { rootCertificates } from 'node:tls'
import { JailError } from '../errors.js'
import { childrenOf, innerPidOf } from './children.js'
import { fds, planLaunch, type LaunchPlan } from './launch-plan.js'
import type { LaunchTools } from './launch-tools.js'
import { caVariables, planMounts } from './mount-plan.js'
import { probeMounts } from './mount-facts.js'
import { rlimits } from './limits.js'
import { compileSeccomp } from './seccomp.js'
import { parseStatus, type Status } from './status-lines.js'
import { parseMachine } from './syscall-numbers.js'
import type { Ending, LaunchSpec, Running } from './types.js'

/**
 * Resolves once the command runs (or could not be executed: then `ended` gives 126 or 127).
 * @throws JailError LAUNCH, TOOL_MISSING, PLATFORM where it could not be launched at all.
 */
export async function launch(spec: LaunchSpec, tools: LaunchTools): Promise<Running> {
  const machine = parseMachine(process.arch)
  const out = new Set(spec.without)
  const walled =
    spec.isolation !== 'basic' && !out.has('mount-namespace') && !out.has('no-new-privs')
  const facts = walled ? probeMounts(spec) : undefined
  const env = spec.extraCa === undefined ? spec.env : new Map([...caVariables, ...spec.env])
  if (walled) mkdirSync(tools.stagingDir, { recursive: true, mode: 0o700 })
  const plan = planLaunch({
    spec: { ...spec, env },
    tools,
    machine,
    parentPid: process.pid,
    ...(facts === undefined
      ? {}
      : {
          mounts: planMounts(spec, facts, tools.stagingDir, {
            idmap: true,
            roots: spec.extraCa === undefined ? '' : rootCertificates.join('\n'),
          }),
        }),
    ...(out.has('seccomp')
      ? {}
      : {
          filter: compileSeccomp(machine, {
            userNamespaces: spec.userNamespaces,
            multicast: spec.isolation === 'namespace',
          }),
        }),
    rlimits: out.has('limits') ? '' : rlimits(spec.limits),
    cgroups: [],
  })
  return new Supervised(start(plan), facts?.notes ?? []).begun()
}

function start(plan: LaunchPlan): ChildProcess {
  const extra = Array.from({ length: plan.descriptors - 3 }, () => 'pipe' as const)
  const child = spawn(plan.program, plan.argv, {
    stdio: ['inherit', 'inherit', 'inherit', ...extra],
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
    cwd: '/',
  })
  for (let fd = 3; fd < plan.descriptors; fd++) {
    const stream = child.stdio[fd] as Writable | null | undefined
    // A step that refuses closes its pipes: what it says on the status pipe is the error that counts.
    stream?.on('error', () => undefined)
    if (fd === fds.status || fd === fds.control) continue
    stream?.end(plan.inputs.get(fd) ?? Buffer.alloc(0))
  }
  return child
}

class Supervised implements Running {
  readonly ended: Promise<Ending>
  readonly notes: readonly string[]
  initPid = 0
  commandPid: number | undefined
  readonly #child: ChildProcess
  readonly #control: Writable
  readonly #begun: Promise<void>
  readonly #stopped: ((signal: NodeJS.Signals) => void)[] = []
  readonly #continued: (() => void)[] = []
  readonly #group: ((signal: NodeJS.Signals) => void)[] = []
  #ending: Ending | undefined
  #error: string | undefined
  #started = false
  #settle: () => void = () => undefined

  constructor(child: ChildProcess, notes: readonly string[]) {
    this.#child = child
    this.notes = notes
    this.#control = child.stdio[fds.control] as Writable
    this.#begun = new Promise((resolve) => (this.#settle = resolve))
    const status = child.stdio[fds.status] as Readable
    let text = ''
    status.setEncoding('utf8').on('data', (data: string) => {
      const lines = (text + data).split('\n')
      text = lines.pop() ?? ''
      for (const line of lines) this.#heard(parseStatus(line))
    })
    this.ended = new Promise((resolve) => {
      let open = 2
      const last = (): void => {
        if (--open > 0) return
        this.commandPid = undefined
        this.#settle()
        // No word of the command's end: the jail was killed from outside.
        resolve(this.#ending ?? { signal: 'SIGKILL' })
      }
      status.on('close', last)
      child.on('error', (error) => {
        this.#error = `${child.spawnfile}: ${error.message}`
        last()
      })
      child.on('exit', last)
    })
  }

  async begun(): Promise<this> {
    await this.#begun
    if (this.#error !== undefined || (!this.#started && this.#ending === undefined)) {
      this.kill()
      await this.ended
      throw new JailError('LAUNCH', `the launch failed: ${this.#error ?? 'bubblewrap gave up'}`)
    }
    return this
  }

  #heard(status: Status): void {
    switch (status.type) {
      case 'started':
        this.#started = true
        this.initPid = childrenOf(this.#child.pid ?? 0)[0] ?? 0
        this.commandPid = childrenOf(this.initPid).find((p) => innerPidOf(p) === status.innerPid)
        this.#settle()
        break
      case 'execfail':
        break
      case 'stopped':
        for (const listener of this.#stopped) listener(status.signal)
        break
      case 'continued':
        for (const listener of this.#continued) listener()
        break
      case 'group-signal':
        for (const listener of this.#group) listener(status.signal)
        break
      case 'exit':
        this.#ending = { code: status.code }
        this.#settle()
        break
      case 'signaled':
        this.#ending = { signal: status.signal }
        this.#settle()
        break
      case 'error':
        this.#error ??= status.text
        break
    }
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#ending === undefined) this.#control.write(`${String(constants.signals[signal])}\n`)
  }

  onStopped(listener: (signal: NodeJS.Signals) => void): void {
    this.#stopped.push(listener)
  }

  onContinued(listener: () => void): void {
    this.#continued.push(listener)
  }

  onGroupSignal(listener: (signal: NodeJS.Signals) => void): void {
    this.#group.push(listener)
  }

  kill(): void {
    this.#child.kill('SIGKILL')
  }

  limitsHit(): Promise<readonly string[]> {
    return Promise.resolve([])
  }
}
