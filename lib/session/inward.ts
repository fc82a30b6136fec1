/**
 * Starts the process that carries the host's loopback ports into a jail's namespace.
 * Invariant: its listeners are on 127.0.0.1 and ::1 only, on the ports that the policy names.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { JailError } from '../errors.js'
import { unprivilegedNode } from './gate-process.js'
import type { GateTools } from './gate-process.js'
import { listenScript } from './listen-script.js'

export interface InwardRequest {
  readonly tools: GateTools
  readonly netns: string
  readonly ports: readonly number[]
  readonly user: { readonly uid: number; readonly gid: number }
}

const startTimeout = 15_000

/** Resolves when the ports are served; `close` ends it. Throws GATE, for one where a port is taken. */
export async function openInward(request: InwardRequest): Promise<{ close(): void }> {
  const { tools, netns, ports, user } = request
  const main = fileURLToPath(new URL('../gate/inward.js', import.meta.url))
  const listen = ports.map((port) => `tcp:${port}`)
  const enter = [tools.nsenter, `--net=${netns}`, '--', ...unprivilegedNode(tools, user, main)]
  const argv = ['-e', listenScript, '--', '127.0.0.1,::1', ...listen, '--', ...enter]
  const child = spawn(tools.perl, argv, {
    cwd: '/',
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc', 'pipe'],
    detached: true,
  })
  let complaint = ''
  child.stderr
    ?.setEncoding('utf8')
    .on('data', (text: string) => (complaint = (complaint + text).slice(-500)))
  const close = (): void => {
    child.kill('SIGKILL')
  }
  try {
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string): void => {
        reject(
          new JailError(
            'GATE',
            `cannot serve the host's loopback port ${ports.join(', ')}: ${why}`,
          ),
        )
      }
      const timer = setTimeout(() => {
        fail(`no answer within ${startTimeout / 1000} s`)
      }, startTimeout)
      child.on('error', (error) => {
        fail(error.message)
      })
      child.on('close', () => {
        clearTimeout(timer)
        fail(complaint.trim().split('\n')[0] ?? '')
      })
      child.on('message', () => {
        clearTimeout(timer)
        resolve()
      })
      let report = ''
      const stream = child.stdio[4] as NodeJS.ReadableStream
      stream.setEncoding('utf8').on('data', (text: string) => {
        report += text
        if (report.endsWith('end\n'))
          child.send({ type: 'start', listeners: parseReport(report) }, () => undefined)
      })
    })
  } catch (error) {
    close()
    throw error
  }
  return { close }
}

/** `tcp FAMILY FD PORT` a line, then `end`. */
function parseReport(text: string): { fd: number; port: number }[] {
  const lines = text.trimEnd().split('\n').slice(0, -1)
  return lines.map((line) => {
    const [, , fd, port] = line.split(' ')
    return { fd: Number(fd), port: Number(port) }
  })
}
