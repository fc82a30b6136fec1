/**
 * Streams a response to the client as it comes.
 * Invariant: an injected key that the host repeats in a response reaches the client as its placeholder.
 */
import type { IncomingMessage } from 'node:http'
import { type Readable } from 'node:stream'
import zlib from 'node:zlib'
import type { Client } from './client.js'
import { endToEndResponse, pairs } from './fields.js'
import type { Link } from './link.js'
import type { Field, Plan } from './message.js'
import { Scrubber } from './meter.js'
import { pump } from './pump.js'
import { type Swap, swapsOf, swapText } from './swap.js'

export function sendResponse(
  client: Client,
  link: Link,
  plan: Plan,
  response: IncomingMessage,
): void {
  const swaps = swapsOf(plan.credential)
  const decoder = swaps.length === 0 ? undefined : decoderFor(response)
  const fields = responseFields(plan, swaps, response, decoder !== undefined)
  response.on('data', (chunk: Buffer) => {
    link.down += chunk.length
  })
  const out = client.respond({
    status: response.statusCode ?? 502,
    statusText: swapText(response.statusMessage ?? '', swaps),
    fields,
  })
  const cut = () => {
    client.cut()
  }
  let source: Readable = response
  for (const stage of [
    decoder,
    ...swaps.map((swap) => new Scrubber(swap.secret, swap.placeholder)),
  ]) {
    if (stage === undefined) continue
    source.on('error', cut)
    source = source.pipe(stage)
  }
  // A host that breaks off midway must not look like one that was done.
  response.on('error', cut)
  response.once('close', () => {
    if (!response.complete) cut()
  })
  source.on('error', cut)
  out.on('error', () => {
    response.destroy()
  })
  pump(source, out)
  source.once('end', () => {
    if (!response.complete) return
    try {
      if (response.rawTrailers.length > 0)
        client.addTrailers(shownFields(plan, swaps, response.rawTrailers))
      out.end()
    } catch {
      // Trailers that can't be written: the response is not whole without them.
      cut()
    }
  })
}

/** The head's fields for the client. */
function responseFields(
  plan: Plan,
  swaps: readonly Swap[],
  response: IncomingMessage,
  isDecoded: boolean,
): Field[] {
  const isSameLength = swaps.every(
    ({ secret, placeholder }) => secret.length === placeholder.length,
  )
  return shownFields(plan, swaps, response.rawHeaders).filter(([name]) => {
    const lower = name.toLowerCase()
    if (lower === 'content-encoding') return !isDecoded
    return lower !== 'content-length' || (!isDecoded && isSameLength)
  })
}

/** Without cookies where a credential is pinned, without the key where it was injected. */
function shownFields(plan: Plan, swaps: readonly Swap[], raw: readonly string[]): Field[] {
  const out: Field[] = []
  for (const [name, value] of endToEndResponse(pairs(raw))) {
    const lower = name.toLowerCase()
    // A cookie that the client sent back would be a second credential.
    if (lower === 'set-cookie' && plan.credential !== undefined) continue
    // Would invite the client to leave the gate by another port or protocol.
    if (lower === 'alt-svc') continue
    out.push([name, swapText(value, swaps)])
  }
  return out
}

/** Asked for plain text, some hosts compress all the same. */
function decoderFor(response: IncomingMessage) {
  switch (response.headers['content-encoding']?.trim().toLowerCase()) {
    case 'gzip':
    case 'x-gzip':
      return zlib.createGunzip({ flush: zlib.constants.Z_SYNC_FLUSH })
    case 'deflate':
      return zlib.createInflate({ flush: zlib.constants.Z_SYNC_FLUSH })
    case 'br':
      return zlib.createBrotliDecompress({ flush: zlib.constants.BROTLI_OPERATION_FLUSH })
    default:
      return undefined
  }
}
