/** HTTP/1.1 requests as parsed by Node (llhttp, strict). */
import { type IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex, Writable } from 'node:stream'
import type { Client, ResponseHead } from './client.js'
import { pairs } from './fields.js'
import type { Field, RequestHead } from './message.js'

/** A refused body is read to here and no further, so that the client gets to the answer. */
const maxDrain = 8 * 1024 * 1024

export class Http1Client implements Client {
  readonly version = '1'
  readonly head: RequestHead
  readonly authority: string | undefined
  readonly body: IncomingMessage
  readonly #response: ServerResponse
  readonly #upgrade: { readonly socket: Duplex; readonly early: Buffer } | undefined

  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    upgrade?: { readonly socket: Duplex; readonly early: Buffer },
  ) {
    this.body = request
    this.#response = response
    this.#upgrade = upgrade
    this.head = headOf(request, upgrade !== undefined && isWebSocket(request))
    this.authority = request.headers.host
  }

  /** A request for a WebSocket: Node has taken its parser off the socket. */
  static forWebSocket(request: IncomingMessage, socket: Socket, early: Buffer): Http1Client {
    const response = new ServerResponse(request)
    response.assignSocket(socket)
    response.shouldKeepAlive = false
    response.once('finish', () => {
      socket.end()
    })
    return new Http1Client(request, response, { socket, early })
  }

  sendContinue(): void {
    if (this.body.headers.expect !== undefined) this.#response.writeContinue()
  }

  respond(head: ResponseHead): Writable {
    const response = this.#response
    // The origin's Date, or none.
    response.sendDate = false
    const fields: [string, string][] = head.fields.map(([name, value]) => [name, value])
    if (!this.body.complete && this.head.hasBody && head.status >= 400) {
      fields.push(['Connection', 'close'])
      this.#drain()
    }
    response.writeHead(head.status, head.statusText, fields)
    response.flushHeaders()
    return response
  }

  addTrailers(fields: readonly Field[]): void {
    this.#response.addTrailers(fields.map(([name, value]): [string, string] => [name, value]))
  }

  isBegun(): boolean {
    return this.#response.headersSent
  }

  isGone(): boolean {
    return this.body.socket.destroyed
  }

  cut(): void {
    this.body.socket.destroy()
  }

  onOver(listener: () => void): void {
    this.#response.once('close', listener)
  }

  takeOver(): { stream: Duplex; early: Buffer } | undefined {
    return this.#upgrade === undefined
      ? undefined
      : { stream: this.#upgrade.socket, early: this.#upgrade.early }
  }

  #drain(): void {
    let drained = 0
    this.body.on('data', (chunk: Buffer) => {
      drained += chunk.length
      if (drained > maxDrain) this.cut()
    })
    this.body.on('error', () => undefined)
    this.body.resume()
  }
}

export function isWebSocket({ method, headers }: IncomingMessage): boolean {
  return method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket'
}

function headOf(request: IncomingMessage, webSocket: boolean): RequestHead {
  const length = request.headers['content-length']
  return {
    method: request.method ?? '',
    target: request.url ?? '',
    fields: pairs(request.rawHeaders),
    webSocket,
    hasBody: length !== undefined || request.headers['transfer-encoding'] !== undefined,
    contentLength: length === undefined ? undefined : Number(length),
  }
}
