/**
 * WebSockets: after the host agrees, bytes pass both ways, counted.
 * Invariant: either side's end ends the other's.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Client } from './client.js'
import { refuse } from './refuse.js'
import { pairs } from './fields.js'
import type { Link } from './link.js'
import { deny, type Place, type Plan } from './message.js'
import { DeniedError, Meter } from './meter.js'
import { swapsOf, swapText } from './swap.js'

export function joinWebSocket(
  client: Client,
  place: Place,
  link: Link,
  plan: Plan,
  response: IncomingMessage,
  upstream: Duplex,
  early: Buffer,
): void {
  const taken = client.takeOver()
  const isAgreed = response.headers.upgrade?.toLowerCase() === 'websocket'
  if (taken === undefined || !isAgreed || !client.head.webSocket) {
    upstream.destroy()
    refuse(client, place, link, deny(502, 'http-malformed', { detail: 'unasked-for upgrade' }))
    return
  }
  const { stream } = taken
  stream.write(switchingHead(response, plan))
  if (early.length > 0) {
    link.down += early.length
    stream.write(early)
  }
  const meter = new Meter({
    maxBody: undefined,
    expected: undefined,
    spend: (size) => {
      const reason = link.context.budget.upload(plan.grant, size)
      if (reason === undefined) link.up += size
      return reason === undefined ? undefined : deny(429, reason, { grant: plan.grant })
    },
    scan: undefined,
  })
  const release = link.use(plan.grant)
  const end = (error?: Error) => {
    if (error instanceof DeniedError) {
      const { reason, grant } = error.denial
      void link.report({
        verdict: 'deny',
        reason,
        layer: 'http',
        direction: 'out',
        proto: 'tcp',
        name: place.name,
        port: place.port,
        ...(grant === undefined ? {} : { grant: grant.id }),
        detail: 'websocket',
      })
    }
    release()
    stream.destroy()
    upstream.destroy()
  }
  meter.on('error', end)
  stream.on('error', end)
  upstream.on('error', end)
  stream.once('close', () => {
    end()
  })
  upstream.once('close', () => {
    end()
  })
  upstream.on('data', (chunk: Buffer) => {
    link.down += chunk.length
  })
  if (taken.early.length > 0) stream.unshift(taken.early)
  stream.pipe(meter).pipe(upstream)
  upstream.pipe(stream)
}

function switchingHead(response: IncomingMessage, plan: Plan): string {
  const swaps = swapsOf(plan.credential)
  const lines = pairs(response.rawHeaders)
    .filter(([name]) => name.toLowerCase() !== 'set-cookie' || plan.credential === undefined)
    .map(([name, value]) => `${name}: ${swapText(value, swaps)}\r\n`)
  return `HTTP/1.1 101 Switching Protocols\r\n${lines.join('')}\r\n`
}
