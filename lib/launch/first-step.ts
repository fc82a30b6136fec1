/**
 * The first step of a launch as a process, which waits to be told what to do.
 * Invariant: it ends with this process, and without a plan.
 */
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import type { Writable } from 'node:stream'
import { JailError } from '../errors.js'
import { parseMachine } from '../system/syscall-numbers.js'
import { ForkServer } from './fork-server.js'
import { fds, firstStep } from './launch-plan.js'
import type { LaunchSpec } from './types.js'

/** A server that has forked the first step already: perl reads it while this process reads the policy. */
export function startServer(perl: string): ForkServer | undefined {
  const server = ForkServer.start(perl)
  const machine = parseMachine(process.arch)
  server?.fork('launch', { env, run: ['perl', ...firstStep(machine, server.pid)] })
  return server
}

const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }

/**
 * @param server has forked it, for the caller's standard streams.
 * @throws JailError LAUNCH where there is no descriptor for it, PLATFORM. A program that is not there is told by an event.
 */
export function startFirstStep(
  perl: string,
  stdio: LaunchSpec['stdio'],
  server: ForkServer | undefined,
): ChildProcess {
  const machine = parseMachine(process.arch)
  const forked = stdio === undefined ? server?.take('launch') : undefined
  if (forked !== undefined) return forked
  const [text, ...words] = firstStep(machine, process.pid)
  const own: StdioOptions = [stdio?.input ?? 'inherit', stdio?.output ?? 'inherit', 'inherit']
  const child: ChildProcess = spawn(perl, ['-e', text, '--', ...words], {
    stdio: [
      ...own,
      ...Array.from({ length: fds.steps - 2 }, () => 'pipe' as const),
      ...(stdio?.stray === undefined ? [] : [stdio.stray]),
    ],
    env,
    cwd: '/',
  })
  // Out of descriptors, Node gives a child without streams, whatever its type says.
  if ((child.stdio as unknown) === undefined) {
    child.on('error', () => undefined)
    throw new JailError('LAUNCH', 'the command cannot be started: no descriptor is free for it')
  }
  // A step that refuses closes its pipes: what it says on the status pipe is the error that counts.
  for (const fd of [fds.status, fds.control, fds.spec, fds.steps])
    (child.stdio[fd] as Writable | null | undefined)?.on('error', () => undefined)
  return child
}
