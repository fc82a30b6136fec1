/**
 * Reads a TLS ClientHello out of the first bytes of a connection (pure; RFC 8446 section 4.1.2, RFC 6066 section 3).
 * Invariant: a name is given only if every length in the hello fits exactly and there is exactly one
 * server_name with exactly one host name; all else is unreadable, never a guess.
 */
import { normaliseName } from '../../policy/hosts.js'

/** The whole hello, over all its records; post-quantum key shares need about 2 KiB. */
export const maxHelloBytes = 16_384
/** Record payload: RFC 8446 section 5.1. */
const maxRecordBytes = 16_384
const maxRecords = 64
const recordHandshake = 22
const handshakeClientHello = 1
const extensionServerName = 0
/** RFC 9849. */
const extensionEch = 0xfe0d

export type Hello =
  | { readonly kind: 'more' }
  | { readonly kind: 'unreadable'; readonly detail: string }
  | { readonly kind: 'hello'; readonly name: string; readonly ech: boolean }
  /** A good hello without a usable name. */
  | { readonly kind: 'nameless'; readonly detail: string; readonly ech: boolean }

/** Judges the bytes received so far. Never throws. */
export function parseHello(bytes: Buffer): Hello {
  const handshake = joinRecords(bytes)
  if (!Buffer.isBuffer(handshake)) return handshake
  if (handshake.length < 4) return { kind: 'more' }
  if (handshake[0] !== handshakeClientHello) return unreadable('not a client hello')
  const length = handshake.readUIntBE(1, 3)
  if (length > maxHelloBytes) return unreadable('hello too long')
  if (handshake.length < 4 + length) return { kind: 'more' }
  // TLS allows nothing behind the hello before the server has spoken (early data is a record of its own).
  if (handshake.length > 4 + length) return unreadable('bytes behind the hello')
  return parseBody(handshake.subarray(4, 4 + length))
}

/** The payload of the leading handshake records, as far as it has come. */
function joinRecords(bytes: Buffer): Buffer | Hello {
  const parts: Buffer[] = []
  let total = 0
  let needed = Infinity
  let offset = 0
  while (total < needed) {
    if (offset < bytes.length && bytes[offset] !== recordHandshake) {
      return unreadable(offset === 0 ? 'not TLS' : 'a record of another kind inside the hello')
    }
    if (offset + 1 < bytes.length && bytes[offset + 1] !== 3) return unreadable('not TLS')
    if (offset + 5 > bytes.length) break
    const length = bytes.readUInt16BE(offset + 3)
    if (length === 0 || length > maxRecordBytes) return unreadable('bad record length')
    const part = bytes.subarray(offset + 5, offset + 5 + length)
    parts.push(part)
    total += part.length
    offset += 5 + length
    // Many tiny records are an attack on us, or on a parser behind us.
    if (parts.length > maxRecords) return unreadable('too many records')
    if (total >= 4 && needed === Infinity) {
      const head = parts.length === 1 ? part : Buffer.concat(parts)
      needed = 4 + head.readUIntBE(1, 3)
      if (needed > 4 + maxHelloBytes) return unreadable('hello too long')
    }
    // Judged by whole records only: what else is in this one counts too.
    if (part.length < length) return { kind: 'more' }
  }
  return Buffer.concat(parts)
}

function parseBody(body: Buffer): Hello {
  const reader = new Reader(body)
  // legacy_version, random
  reader.skip(2 + 32)
  const session = reader.vector(1)
  const suites = reader.vector(2)
  const compressions = reader.vector(1)
  if (session === undefined || suites === undefined || compressions === undefined) {
    return unreadable('cut short')
  }
  if (session.length > 32 || suites.length < 2 || suites.length % 2 !== 0) {
    return unreadable('bad lengths')
  }
  if (compressions.length < 1) return unreadable('bad lengths')
  if (reader.isAtEnd()) return { kind: 'nameless', detail: 'no extensions', ech: false }
  const extensions = reader.vector(2)
  if (extensions === undefined || !reader.isAtEnd()) return unreadable('bad extension length')
  return parseExtensions(extensions)
}

function parseExtensions(extensions: Buffer): Hello {
  const reader = new Reader(extensions)
  const seen = new Set<number>()
  let serverName: Buffer | undefined
  while (!reader.isAtEnd()) {
    const type = reader.uint16()
    const data = reader.vector(2)
    if (type === undefined || data === undefined) return unreadable('bad extension length')
    // RFC 8446 section 4.2: no two of one type. Servers differ in which they would take.
    if (seen.has(type)) return unreadable('an extension twice')
    seen.add(type)
    if (type === extensionServerName) serverName = data
  }
  const ech = seen.has(extensionEch)
  if (serverName === undefined) return { kind: 'nameless', detail: 'no server name', ech }
  return parseServerName(serverName, ech)
}

function parseServerName(data: Buffer, ech: boolean): Hello {
  const outer = new Reader(data)
  const list = outer.vector(2)
  if (list === undefined || !outer.isAtEnd()) return unreadable('bad server name length')
  const reader = new Reader(list)
  const type = reader.uint8()
  const host = reader.vector(2)
  if (type === undefined || host === undefined) return unreadable('bad server name length')
  if (!reader.isAtEnd()) return unreadable('more than one server name')
  if (type !== 0) return unreadable('a server name of another type')
  const text = host.toString('latin1')
  // RFC 6066: a host name in ASCII without the trailing dot, no address.
  const name = text.endsWith('.') ? undefined : normaliseName(text)
  if (name === undefined) {
    return { kind: 'nameless', detail: `server name is no host name: ${text}`, ech }
  }
  return { kind: 'hello', name, ech }
}

function unreadable(detail: string): Hello {
  return { kind: 'unreadable', detail }
}

/** Reads big-endian fields; `undefined` once the bytes do not suffice. */
class Reader {
  readonly #bytes: Buffer
  #offset = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  isAtEnd(): boolean {
    return this.#offset === this.#bytes.length
  }

  skip(count: number): void {
    this.#offset += count
  }

  uint8(): number | undefined {
    return this.#bytes[this.#offset++]
  }

  uint16(): number | undefined {
    if (this.#offset + 2 > this.#bytes.length) return undefined
    this.#offset += 2
    return this.#bytes.readUInt16BE(this.#offset - 2)
  }

  /** A vector behind a length field of `width` bytes. */
  vector(width: 1 | 2): Buffer | undefined {
    const length = width === 1 ? this.uint8() : this.uint16()
    if (length === undefined || this.#offset + length > this.#bytes.length) return undefined
    this.#offset += length
    return this.#bytes.subarray(this.#offset - length, this.#offset)
  }
}
