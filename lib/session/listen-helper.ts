/**
 * Entry of a short-lived helper: opens further listening sockets where it was started (the jail's network namespace,
 * or the host) and hands them to the warden over IPC.
 * Invariant: it serves nothing; no rule leads to its ports before the gate has them.
 */
import dgram from 'node:dgram'
import { once } from 'node:events'
import net from 'node:net'

export interface HelperRequest {
  /** Absent hosts: every address, both families (in a jail's namespace). */
  readonly loopback: boolean
  readonly specs: readonly { readonly proto: 'tcp' | 'udp'; readonly meant: number }[]
}

/** Travels with the socket's native handle; the last has none and says `end`. */
export type HelperAnswer =
  | {
      readonly proto: 'tcp' | 'udp'
      readonly meant: number
      readonly family: 4 | 6
      readonly actual: number
    }
  | { readonly end: true }
  | { readonly error: string }

/** Node keeps the native handle here; only this form passes through IPC without being served on the way. */
interface WithHandle {
  readonly _handle: net.Server
}

function send(answer: HelperAnswer, handle?: unknown): Promise<void> {
  return new Promise((resolve, reject) => {
    process.send?.(answer, handle as net.Server | undefined, { keepOpen: true }, (error) => {
      if (error === null) resolve()
      else reject(error)
    })
  })
}

async function openTcp(host: string, port: number): Promise<{ handle: unknown; actual: number }> {
  const server = net.createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host, port, backlog: 4096, ipv6Only: host === '::1' }, resolve)
  })
  return {
    handle: (server as unknown as WithHandle)._handle,
    actual: (server.address() as net.AddressInfo).port,
  }
}

async function openUdp(host: string, port: number): Promise<{ handle: unknown; actual: number }> {
  const v6 = host.includes(':')
  const socket = dgram.createSocket({ type: v6 ? 'udp6' : 'udp4', ipv6Only: host === '::1' })
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.bind(port, host, resolve)
  })
  const state = Object.getOwnPropertySymbols(socket).find(
    (one) => one.description === 'state symbol',
  )
  const holder: unknown = state === undefined ? undefined : Reflect.get(socket, state)
  return {
    handle: (holder as { handle?: unknown } | undefined)?.handle,
    actual: socket.address().port,
  }
}

/** False on a kernel that was started without IPv6. */
async function hasIpv6(): Promise<boolean> {
  try {
    const server = net.createServer().listen({ host: '::', port: 0 })
    await once(server, 'listening')
    server.close()
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EAFNOSUPPORT'
  }
}

async function serve({ loopback, specs }: HelperRequest): Promise<void> {
  const all = (await hasIpv6()) ? '::' : '0.0.0.0'
  for (const { proto, meant } of specs) {
    let port = loopback ? 0 : meant
    for (const host of loopback ? ['127.0.0.1', '::1'] : [all]) {
      const opened = await (proto === 'tcp' ? openTcp : openUdp)(host, port).catch(
        (error: unknown) => {
          // IPv6 is switched off here, as in docker's containers, or not in the kernel.
          const code = (error as NodeJS.ErrnoException).code ?? ''
          if (host !== '::1' || !['EADDRNOTAVAIL', 'EAFNOSUPPORT'].includes(code)) throw error
        },
      )
      if (opened === undefined) continue
      const { handle, actual } = opened
      // IPv4 took any port: IPv6 takes the same, so that one redirect serves both.
      port = actual
      await send({ proto, meant, family: host.includes(':') ? 6 : 4, actual }, handle)
    }
  }
  await send({ end: true })
}

process.on('disconnect', () => {
  process.exit(0)
})
process.on('message', (request: HelperRequest) => {
  serve(request).catch((error: unknown) => {
    void send({ error: error instanceof Error ? error.message : String(error) })
  })
})
