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

interface Swap {
  readonly secret: string
  readonly placeholder: string
}

export function sendResponse(
  client: Client,
  link: Link,
  plan: Plan,
  response: IncomingMessage,
): void {
  const swap = swapOf(plan)
  const decoder = swap === undefined ? undefined : decoderFor(response)
  const fields = responseFields(plan, swap, response, decoder !== undefined)
  response.on('data', (chunk: Buffer) => {
    link.down += chunk.length
  })
  const out = client.respond({
    status: response.statusCode ?? 502,
    statusText: response.statusMessage ?? '',
    fields,
  })
  const cut = () => {
    client.cut()
  }
  let source: Readable = response
  for (const stage of [decoder, swap && new Scrubber(swap.secret, swap.placeholder)]) {
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
      if (response.rawTrailers.length > 0) client.addTrailers(pairs(response.rawTrailers))
      out.end()
    } catch {
      // Trailers that can't be written: the response is not whole without them.
      cut()
    }
  })
}

function swapOf(plan: Plan): Swap | undefined {
  const { credential } = plan
  if (credential?.mode !== 'inject' || credential.placeholder === undefined) return undefined
  return { secret: credential.value, placeholder: credential.placeholder }
}

/** The head's fields for the client, without cookies where a credential is pinned, without the key where it was injected. */
export function responseFields(
  plan: Plan,
  swap: Swap | undefined,
  response: IncomingMessage,
  isDecoded: boolean,
): Field[] {
  const isSameLength = swap?.secret.length === swap?.placeholder.length
  const out: Field[] = []
  for (const [name, value] of endToEndResponse(pairs(response.rawHeaders))) {
    const lower = name.toLowerCase()
    // A cookie that the client sent back would be a second credential.
    if (lower === 'set-cookie' && plan.credential !== undefined) continue
    if (lower === 'content-encoding' && isDecoded) continue
    if (lower === 'content-length' && (isDecoded || !isSameLength)) continue
    // Would invite the client to leave the gate by another port or protocol.
    if (lower === 'alt-svc') continue
    out.push([name, swap === undefined ? value : value.replaceAll(swap.secret, swap.placeholder)])
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
