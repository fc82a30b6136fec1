/** What the gate's benches share: a gate as a process of its own, srt's proxy, times and rates. */
import { type ChildProcess, fork } from 'node:child_process'
import { existsSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import type { GateConfig, GatePolicy } from '../lib/gate/protocol.js'
import { plainGrant } from '../lib/policy/plain-grant.js'
import type { Grant } from '../lib/policy/types.js'
import { gateMain } from '../lib/session/gate-process.js'
import { root } from '../test/lab/paths.js'

export const name = 'api.example.com'

export interface Opened {
  readonly fd: number
  readonly port: number
  readonly close: () => void
}

export async function openTcp(): Promise<Opened> {
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  return { fd, port: (server.address() as net.AddressInfo).port, close: () => server.close() }
}

/** `name` alone, on one port; it resolves to loopback. */
export function policyFor(
  port: number,
  grant: Partial<Grant>,
  more: Partial<GatePolicy> = {},
): GatePolicy {
  return {
    grants: [
      {
        ...plainGrant({
          id: 'g1',
          host: { kind: 'exact', name },
          ports: [{ first: port, last: port }],
          origin: { file: 'bench', line: 1, column: 1 },
        }),
        ...grant,
      },
    ],
    cidrs: [],
    denies: [],
    loopbackConnect: [],
    ipv6: false,
    report: false,
    credentials: [],
    dns: {
      upstream: [],
      types: ['A'],
      maxTtl: 60,
      pinExtra: 120,
      rate: 50,
      wildcard: { labels: 3, labelLength: 32, newNames: 50 },
      hosts: [[name, ['127.0.0.1']]],
    },
    ...more,
  }
}

/** The program that runs in a jail, with `sockets` as its descriptors 4, 5 and so on; `ca`: its CA's certificate. */
export async function startGate(
  sockets: readonly Opened[],
  config: Pick<GateConfig, 'listeners' | 'policy'> & Partial<GateConfig>,
): Promise<{ readonly child: ChildProcess; readonly ca: string | undefined }> {
  const child = fork(gateMain, [], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc', ...sockets.map(({ fd }) => fd)],
  })
  for (const socket of sockets) socket.close()
  const ready = new Promise<string | undefined>((resolve, reject) => {
    child.on('message', (message: Record<string, unknown> & { type: string }) => {
      if (message.type === 'ready') resolve(message['ca'] as string | undefined)
      if (message.type === 'pin') {
        child.send({ type: 'pinned', serial: message['serial'], ok: true })
      }
      if (message.type === 'fatal') reject(new Error(String(message['message'])))
    })
  })
  const whole: GateConfig = {
    jail: 'bench',
    mode: 'redirect',
    wantCa: false,
    hostAddresses: [],
    upstreams: [],
    ...config,
  }
  child.send({ type: 'start', config: whole })
  return { child, ca: await ready }
}

export interface Srt {
  readonly child: ChildProcess
  readonly port: number
  /** The request that opens a tunnel to the bench's server. */
  readonly request: string
  /** Where it ends TLS. */
  readonly ca: string | undefined
}

/** srt's proxy, for a server on `to`, or why there is none. `caFile`: a root that it shall trust. */
export async function startSrt(to: number, caFile?: string): Promise<Srt | string> {
  const script = join(root, 'bench/rivals/srt-proxy.mjs')
  if (!existsSync(join(root, 'bench/rivals/node_modules'))) return 'srt is not installed'
  const child = fork(script, caFile === undefined ? [] : ['terminate'], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, ...(caFile === undefined ? {} : { NODE_EXTRA_CA_CERTS: caFile }) },
  })
  let said = ''
  child.stderr?.on('data', (text: Buffer) => (said += text.toString()))
  return await new Promise((resolve) => {
    child.once('exit', () => {
      resolve(`srt's proxy does not start: ${said.slice(0, 200)}`)
    })
    child.once('message', (message: { port: number; token?: string; ca?: string }) => {
      const { port, token, ca } = message
      const auth = Buffer.from(`srt:${token ?? ''}`).toString('base64')
      const request = `CONNECT localhost:${to} HTTP/1.1\r\nHost: localhost:${to}\r\nProxy-Authorization: Basic ${auth}\r\n\r\n`
      resolve({ child, port, request, ca })
    })
  })
}

/** `work` done `count` times by `workers` at once: how often a second. */
export async function rateOf(
  count: number,
  workers: number,
  work: () => Promise<unknown>,
): Promise<number> {
  const started = performance.now()
  let left = count
  const worker = async (): Promise<void> => {
    while (left-- > 0) await work()
  }
  await Promise.all(Array.from({ length: workers }, worker))
  return count / ((performance.now() - started) / 1000)
}

export function at(sorted: readonly number[], quantile: number): number {
  return sorted[Math.floor(sorted.length * quantile)] ?? NaN
}

/** NaN for what does not end within ten seconds: the rest is still measured. */
export async function within<T>(work: Promise<T>): Promise<T | number> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<number>((resolve) => {
    timer = setTimeout(() => {
      resolve(NaN)
    }, 10_000)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** Samples by key, and what is made of them. */
export class Samples {
  readonly #lists: Record<string, number[]> = {}

  note(key: string, value: number): void {
    const list = this.#lists[key] ?? []
    list.push(value)
    this.#lists[key] = list
  }

  of(key: string): readonly number[] {
    return this.#lists[key] ?? []
  }

  all(): Readonly<Record<string, readonly number[]>> {
    return this.#lists
  }
}
