/**
 * Reads what a proxy client asks for: HTTP CONNECT, absolute-form HTTP, or SOCKS5 (pure).
 * Invariant: a host is a normalised name or a canonical address; anything else is refused.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { canonicalAddress, formatAddress, unmapAddress } from '../../policy/addresses.js'
import { normaliseName } from '../../policy/hosts.js'

export type Target =
  | { readonly kind: 'name'; readonly name: string; readonly port: number }
  | { readonly kind: 'address'; readonly address: string; readonly port: number }

const maxHeadBytes = 16_384

export type HttpRequest =
  | {
      readonly kind: 'connect'
      readonly target: Target
      readonly password?: string
      readonly rest: Buffer
    }
  /** `bytes`: the request without proxy headers, and with `Connection: close`. */
  | {
      readonly kind: 'forward'
      readonly port: number
      readonly password?: string
      readonly bytes: Buffer
    }
  | { readonly kind: 'bad'; readonly detail: string }

/** Reads an HTTP proxy request; `undefined`: more bytes are needed. */
export function parseHttpRequest(bytes: Buffer): HttpRequest | undefined {
  const end = bytes.indexOf('\r\n\r\n')
  if (end === -1) {
    return bytes.length > maxHeadBytes ? { kind: 'bad', detail: 'head too long' } : undefined
  }
  const [requestLine = '', ...headers] = bytes.subarray(0, end).toString('latin1').split('\r\n')
  const rest = bytes.subarray(end + 4)
  const [method, uri = '', version, ...more] = requestLine.split(' ')
  if (!/^HTTP\/1\.[01]$/.test(version ?? '') || more.length > 0) {
    return { kind: 'bad', detail: 'not an HTTP request' }
  }
  const credentials = headers.filter((line) => /^proxy-authorization:/i.test(line))
  if (credentials.length > 1) return { kind: 'bad', detail: 'two proxy authorizations' }
  const password = basicPassword(credentials[0])
  const auth = password === undefined ? {} : { password }
  if (method === 'CONNECT') {
    const target = parseAuthority(uri, undefined)
    if (target === undefined) return { kind: 'bad', detail: 'CONNECT to no host:port' }
    return { kind: 'connect', target, ...auth, rest }
  }
  const absolute = /^http:\/\/([^/?#@]+)(?:[/?]|$)/i.exec(uri)
  const target = absolute?.[1] === undefined ? undefined : parseAuthority(absolute[1], 80)
  if (target === undefined) return { kind: 'bad', detail: 'neither CONNECT nor http://' }
  // One request a connection: a later one could bring its own proxy headers.
  const kept = headers.filter((line) => !/^(?:proxy-[a-z-]+|connection|keep-alive):/i.test(line))
  const head = [requestLine, ...kept, 'Connection: close', '', ''].join('\r\n')
  return {
    kind: 'forward',
    port: target.port,
    ...auth,
    bytes: Buffer.concat([Buffer.from(head, 'latin1'), rest]),
  }
}

function parseAuthority(text: string, defaultPort: number | undefined): Target | undefined {
  const match = /^(\[[0-9a-f:.]+\]|[^:[\]]+)(?::(\d{1,5}))?$/i.exec(text)
  const port = match?.[2] === undefined ? defaultPort : Number(match[2])
  if (match?.[1] === undefined || port === undefined) return undefined
  return parseTarget(match[1].replace(/^\[|\]$/g, ''), port)
}

/** A host as text, and a port, to a target. */
function parseTarget(host: string, port: number): Target | undefined {
  if (port < 1 || port > 65535) return undefined
  const address = host.toLowerCase() === 'localhost' ? '127.0.0.1' : canonicalAddress(host)
  if (address !== undefined) {
    const unmapped = unmapAddress(address)
    return unmapped === undefined ? undefined : { kind: 'address', address: unmapped, port }
  }
  const name = normaliseName(host)
  return name === undefined ? undefined : { kind: 'name', name, port }
}

/** RFC 7617: the password of a Basic credential. */
function basicPassword(line: string | undefined): string | undefined {
  const match = /^[^:]*:\s*basic\s+([A-Za-z0-9+/=]+)\s*$/i.exec(line ?? '')
  if (match?.[1] === undefined) return undefined
  const text = Buffer.from(match[1], 'base64').toString('utf8')
  const colon = text.indexOf(':')
  return colon === -1 ? undefined : text.slice(colon + 1)
}

/** In constant time, whatever the lengths. */
export function isToken(given: string | undefined, token: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given ?? ''), digest(token)) && given !== undefined
}

export type SocksGreeting = { readonly methods: readonly number[]; readonly length: number }

/** RFC 1928 section 3; `undefined`: more. */
export function parseSocksGreeting(bytes: Buffer): SocksGreeting | undefined {
  const count = bytes[1]
  if (count === undefined || bytes.length < 2 + count) return undefined
  return { methods: [...bytes.subarray(2, 2 + count)], length: 2 + count }
}

/** RFC 1929: user and password; `undefined`: more; `bad`: not this. */
export function parseSocksPassword(
  bytes: Buffer,
): { readonly password: string; readonly length: number } | 'bad' | undefined {
  if (bytes.length > 0 && bytes[0] !== 1) return 'bad'
  const user = bytes[1]
  if (user === undefined) return undefined
  const length = bytes[2 + user]
  if (length === undefined || bytes.length < 3 + user + length) return undefined
  const end = 3 + user + length
  return { password: bytes.subarray(3 + user, end).toString('utf8'), length: end }
}

/** RFC 1928 section 4; a number is the reply code of a refusal (section 6). */
export function parseSocksRequest(
  bytes: Buffer,
): { readonly target: Target; readonly length: number } | number | undefined {
  if (bytes.length < 5) return undefined
  if (bytes[0] !== 5 || bytes[2] !== 0) return 1
  // Only CONNECT: BIND would listen, and UDP has no grant by name here.
  if (bytes[1] !== 1) return 7
  const kind = bytes[3]
  const size = kind === 1 ? 4 : kind === 4 ? 16 : kind === 3 ? 1 + bytes.readUInt8(4) : 0
  if (size === 0) return 8
  const end = 4 + size + 2
  if (bytes.length < end) return undefined
  const host = bytes.subarray(4, 4 + size)
  const text = kind === 3 ? host.subarray(1).toString('latin1') : formatAddress(host)
  const target = parseTarget(text, bytes.readUInt16BE(4 + size))
  return target === undefined ? 1 : { target, length: end }
}
