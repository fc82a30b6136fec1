/**
 * Further sockets for a gate that runs already, opened by a helper that ends as soon as it has handed them over.
 * Invariant: the warden only passes the handles on; it accepts nothing on them.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { JailError } from '../errors.js'
import type { GateProcess, ListenerSpec, OpenedListener } from './gate-process.js'
import type { HelperAnswer, HelperRequest } from './listen-helper.js'

export interface LateRequest {
  readonly node: string
  readonly nsenter: string
  /** Absent: on the host's loopback. */
  readonly netns?: string
  readonly specs: readonly ListenerSpec[]
  readonly gate: GateProcess
  /** A number that no other request to this gate has. */
  readonly nextSerial: () => number
}

const timeout = 10_000
const helperMain = fileURLToPath(new URL('../session/listen-helper.js', import.meta.url))

/** Resolves when the gate serves every one of them. Throws GATE; then none of them is reachable. */
export async function openLate(request: LateRequest): Promise<readonly OpenedListener[]> {
  const { node, nsenter, netns, specs } = request
  if (specs.length === 0) return []
  const argv = ['--disable-proto=delete', helperMain]
  const [program, args] =
    netns === undefined ? [node, argv] : [nsenter, [`--net=${netns}`, '--', node, ...argv]]
  const child = spawn(program, args, {
    cwd: '/',
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' },
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    serialization: 'json',
    detached: true,
  })
  const given: Promise<OpenedListener>[] = []
  try {
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string): void => {
        reject(new JailError('GATE', `no further sockets for the gate: ${why}`))
      }
      const timer = setTimeout(() => {
        fail(`no answer within ${timeout / 1000} s`)
      }, timeout)
      timer.unref()
      child.on('error', (error) => {
        fail(error.message)
      })
      child.on('exit', (code) => {
        fail(`the helper ended with ${code ?? 'a signal'}`)
      })
      child.on('message', (message, handle) => {
        const answer = message as HelperAnswer
        if ('error' in answer) fail(answer.error)
        else if ('end' in answer) resolve()
        else given.push(hand(request, answer, handle))
      })
      child.send(
        { loopback: netns === undefined, specs } satisfies HelperRequest,
        undefined,
        undefined,
        (error) => {
          if (error !== null) fail(error.message)
        },
      )
    })
    return await Promise.all(given)
  } finally {
    for (const one of given) one.catch(() => undefined)
    child.kill('SIGKILL')
  }
}

function hand(
  { gate, nextSerial }: LateRequest,
  answer: Extract<HelperAnswer, { proto: string }>,
  handle: unknown,
): Promise<OpenedListener> {
  const serial = nextSerial()
  const { proto, meant, family, actual } = answer
  const listener = {
    proto,
    role: meant === 53 ? ('dns' as const) : ('relay' as const),
    port: meant,
    family,
  }
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      clearTimeout(timer)
      reject(new JailError('GATE', `the gate does not take a further socket: ${why}`))
    }
    const timer = setTimeout(() => {
      fail(`no answer within ${timeout / 1000} s`)
    }, timeout)
    gate.onExit(fail)
    gate.onMessage((message) => {
      if (message.type !== 'serving' || message.serial !== serial) return
      clearTimeout(timer)
      // The gate has its own copy.
      if (hasClose(handle)) handle.close()
      resolve({ ...listener, fd: -1, actual })
    })
    gate.send({ type: 'listener', serial, listener }, handle)
  })
}

function hasClose(value: unknown): value is { close(): void } {
  return (
    typeof value === 'object' &&
    value !== null &&
    'close' in value &&
    typeof value.close === 'function'
  )
}
