/**
 * Sends an allowed request upstream and streams the response back.
 * Invariant: the request that leaves is written by Node's HTTP client from the plan; a policy limit
 * that is crossed midway cuts the upstream request before it is complete.
 */
import http, { type ClientRequest, type IncomingMessage } from 'node:http'
import { errorMessage } from '../../errors.js'
import type { Client } from './client.js'
import { isGivenOn } from './left-over.js'
import { refuse } from './refuse.js'
import type { Link } from './link.js'
import { deny, type Denial, type Field, type Place, type Plan } from './message.js'
import { DeniedError, Meter } from './meter.js'
import { sendResponse } from './response.js'
import { UpstreamError } from './upstream.js'
import { joinWebSocket } from './web-socket.js'

/** Methods for which Node's client would announce a chunked body of its own. */
const bodyMethods = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])

export async function forward(
  client: Client,
  place: Place,
  link: Link,
  plan: Plan,
  bytes: Buffer | undefined,
): Promise<void> {
  await new Promise<void>((resolve) => {
    client.onOver(resolve)
    attempt(client, place, link, plan, bytes, true)
  })
}

function attempt(
  client: Client,
  place: Place,
  link: Link,
  plan: Plan,
  bytes: Buffer | undefined,
  mayRetry: boolean,
): void {
  const request = http.request({
    agent: link.agentFor(place),
    method: plan.method,
    path: plan.path,
    headers: requestFields(client, place, plan, bytes).flat(),
    ...{ grant: plan.grant },
  })
  request.setNoDelay(true)
  const spent: Spent = {}
  let isOver = false
  client.onOver(() => {
    isOver = true
    request.destroy()
  })

  request.once('response', (response: IncomingMessage) => {
    try {
      sendResponse(client, link, plan, response)
    } catch (error) {
      // A head that can't be written in the client's version of HTTP.
      request.destroy()
      const detail = `response: ${errorMessage(error).slice(0, 200)}`
      refuse(client, place, link, deny(502, 'http-malformed', { grant: plan.grant, detail }))
    }
  })
  request.once('upgrade', (response: IncomingMessage, socket, early: Buffer) => {
    joinWebSocket(client, place, link, plan, response, socket, early)
  })
  // A budget that is crossed resets the connection and destroys the request: Node may tell of both.
  let hasFailed = false
  request.on('error', (error) => {
    if (isOver || hasFailed) return
    hasFailed = true
    // A kept connection that the host had just closed: what had no body yet is safely sent again.
    const isOld = request.reusedSocket || isGivenOn(request.socket)
    const isStale = isOld && !client.isBegun() && isReset(error)
    if (mayRetry && isStale && (bytes !== undefined || !client.head.hasBody)) {
      attempt(client, place, link, plan, bytes, false)
      return
    }
    refuse(client, place, link, denialOf(spent.denial ?? error, plan))
  })
  sendBody(client, link, plan, bytes, request, spent)
}

/** A crossed budget cuts the upstream connection at once, and its error may be seen before the reason. */
interface Spent {
  denial?: DeniedError
}

function isReset(error: Error): boolean {
  return 'code' in error && (error.code === 'ECONNRESET' || error.code === 'EPIPE')
}

function denialOf(error: Error, plan: Plan): Denial {
  if (error instanceof DeniedError) return { ...error.denial, grant: plan.grant }
  const reason = error instanceof UpstreamError ? error.reason : 'dial-failed'
  return deny(reason === 'timeout' ? 504 : 502, reason, {
    grant: plan.grant,
    detail: errorMessage(error).slice(0, 200),
  })
}

function requestFields(
  client: Client,
  place: Place,
  plan: Plan,
  bytes: Buffer | undefined,
): Field[] {
  const { head } = client
  const standard = place.isTls ? 443 : 80
  const host = place.port === standard ? place.name : `${place.name}:${String(place.port)}`
  const fields: Field[] = [['Host', host], ...plan.fields]
  if (plan.credential?.mode === 'inject') forceIdentity(fields)
  if (head.webSocket) {
    fields.push(['Connection', 'Upgrade'], ['Upgrade', 'websocket'])
  } else if (bytes !== undefined) {
    if (head.hasBody || bodyMethods.has(plan.method)) {
      fields.push(['Content-Length', String(bytes.length)])
    }
  } else if (head.contentLength !== undefined) {
    fields.push(['Content-Length', String(head.contentLength)])
  } else if (head.hasBody) {
    fields.push(['Transfer-Encoding', 'chunked'])
  } else if (bodyMethods.has(plan.method)) {
    fields.push(['Content-Length', '0'])
  }
  return fields
}

/** A response that may hold the injected key must be readable to find it. */
function forceIdentity(fields: Field[]): void {
  const at = fields.findIndex(([name]) => name.toLowerCase() === 'accept-encoding')
  const field: Field = ['Accept-Encoding', 'identity']
  if (at === -1) fields.push(field)
  else fields[at] = field
}

function sendBody(
  client: Client,
  link: Link,
  plan: Plan,
  bytes: Buffer | undefined,
  request: ClientRequest,
  spent: Spent,
): void {
  const spend = (size: number): Denial | undefined => {
    const reason = link.context.budget.upload(plan.grant, size)
    if (reason === undefined) {
      link.up += size
      return undefined
    }
    const denial = deny(429, reason)
    spent.denial = new DeniedError(denial)
    return denial
  }
  if (bytes !== undefined) {
    const denial = bytes.length === 0 ? undefined : spend(bytes.length)
    if (denial !== undefined) request.destroy(new DeniedError(denial))
    else request.end(bytes)
    return
  }
  if (!client.head.hasBody) {
    request.end()
    return
  }
  const meter = new Meter({
    maxBody: plan.maxBody,
    expected: client.head.contentLength,
    spend,
    scan: plan.scan,
  })
  meter.on('error', (error) => {
    // Destroyed before its end is written: the host sees a body cut short, never a whole one.
    client.body.unpipe(meter)
    request.destroy(error)
  })
  request.once('close', () => {
    // Answered before the body was read: the rest goes nowhere.
    client.body.unpipe(meter)
    meter.destroy()
  })
  client.body.on('error', () => request.destroy())
  client.sendContinue()
  client.body.pipe(meter).pipe(request)
}
