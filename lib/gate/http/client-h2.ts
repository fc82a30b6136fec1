/** HTTP/2 requests as parsed by Node (nghttp2, which enforces RFC 9113 §8 on fields and lengths). */
import { constants, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2'
import type { Writable } from 'node:stream'
import type { Client, ResponseHead } from './client.js'
import { pairs } from './fields.js'
import type { Field, RequestHead } from './message.js'

export class Http2Client implements Client {
  readonly version = '2'
  readonly head: RequestHead
  readonly authority: string | undefined
  readonly body: ServerHttp2Stream
  /** Trailers are asked for by the stream once the body is ended. */
  #trailers: readonly Field[] = []

  constructor(stream: ServerHttp2Stream, rawHeaders: readonly string[], ended: boolean) {
    this.body = stream
    const all = pairs(rawHeaders)
    const pseudo = (name: string) => all.find(([field]) => field === name)?.[1]
    const fields = joinCookies(all.filter(([name]) => !name.startsWith(':')))
    const hosts = fields.filter(([name]) => name === 'host')
    const length = fields.find(([name]) => name === 'content-length')?.[1]
    const authority = pseudo(':authority')
    this.authority = authority ?? hosts[0]?.[1]
    this.head = {
      method: pseudo(':method') ?? '',
      // An extended CONNECT has no business here; its method is refused.
      target: pseudo(':path') ?? '',
      // A Host that differs from :authority: kept twice, so that the head is refused as ambiguous.
      fields:
        authority !== undefined && hosts.some(([, value]) => value !== authority)
          ? [...fields, ['host', authority]]
          : fields,
      webSocket: false,
      hasBody: !ended,
      contentLength: length === undefined || !/^[0-9]{1,15}$/.test(length) ? undefined : +length,
    }
  }

  sendContinue(): void {
    if (this.head.fields.some(([name]) => name === 'expect') && !this.body.headersSent) {
      this.body.additionalHeaders({ ':status': 100 })
    }
  }

  respond(head: ResponseHead): Writable {
    const headers: Record<string, string | string[] | number> = { ':status': head.status }
    for (const [name, value] of head.fields) {
      const lower = name.toLowerCase()
      const known = headers[lower]
      if (known === undefined) headers[lower] = value
      else if (Array.isArray(known)) known.push(value)
      else headers[lower] = [String(known), value]
    }
    // Throws where the fields have no form in HTTP/2 (two content types).
    this.body.respond(headers, { waitForTrailers: true })
    this.body.once('wantTrailers', () => {
      const trailers: IncomingHttpHeaders = Object.create(null) as IncomingHttpHeaders
      for (const [name, value] of this.#trailers) trailers[name.toLowerCase()] = value
      try {
        this.body.sendTrailers(trailers)
      } catch {
        // Fields that can't be trailers here: the body stands without them.
        this.body.sendTrailers({})
      }
    })
    return this.body
  }

  addTrailers(fields: readonly Field[]): void {
    this.#trailers = fields
  }

  isBegun(): boolean {
    return this.body.headersSent
  }

  isGone(): boolean {
    return this.body.destroyed || this.body.closed
  }

  cut(): void {
    this.body.close(constants.NGHTTP2_INTERNAL_ERROR)
  }

  onOver(listener: () => void): void {
    this.body.once('close', listener)
  }

  takeOver(): undefined {
    return undefined
  }
}

/** HTTP/2 may split a cookie into several fields (RFC 9113 §8.2.3). */
function joinCookies(fields: readonly Field[]): Field[] {
  const cookies = fields.filter(([name]) => name === 'cookie').map(([, value]) => value)
  const rest = fields.filter(([name]) => name !== 'cookie')
  return cookies.length === 0 ? rest : [...rest, ['cookie', cookies.join('; ')]]
}
