/**
 * The request target and the host it is for: parse and normalise (RFC 9112 §3.2, RFC 3986 §6.2.2).
 * Invariant: the path that rules judge is character for character the path that is sent; whatever
 * two servers could read in two ways (encoded separators, backslashes) has no normal form here.
 */

/** Longest target taken; llhttp's own limit covers the whole head (16 KiB). */
const maxTarget = 8192

export interface Target {
  /** As it came, origin-form, checked for its characters only; for grants that judge no path. */
  readonly rawPath: string
  /** Normalised segments, or `undefined` where the path has no unambiguous form. */
  readonly segments: readonly string[] | undefined
  /** Without `?`; `undefined` where there was none. */
  readonly query: string | undefined
  /** Of an absolute-form target: its scheme and authority, which must repeat what the connection says. */
  readonly absolute: { readonly scheme: string; readonly authority: string } | undefined
}

/** More segments than any API has; bounds the matching of rules. */
const maxSegments = 256

/** Visible ASCII that may stand in a path or query; no `#`, space, control, quote, backslash, or braces. */
const targetForm = /^[!$%&'()*+,\-./0-9:;=?@A-Z[\]_a-z|~^`{}]*$/

/** `undefined`: malformed, or a form that only proxies and servers-wide OPTIONS take. */
export function parseTarget(text: string): Target | undefined {
  if (text.length > maxTarget) return undefined
  const absoluteForm = /^([a-z]+):\/\/([^/?#]*)(.*)$/i.exec(text)
  const origin = absoluteForm === null ? text : originOf(absoluteForm[3] ?? '')
  if (!origin.startsWith('/') || !targetForm.test(origin)) return undefined
  const mark = origin.indexOf('?')
  const rawPath = mark === -1 ? origin : origin.slice(0, mark)
  return {
    rawPath,
    segments: normaliseSegments(rawPath),
    query: mark === -1 ? undefined : origin.slice(mark + 1),
    absolute:
      absoluteForm === null
        ? undefined
        : {
            scheme: (absoluteForm[1] ?? '').toLowerCase(),
            authority: absoluteForm[2] ?? '',
          },
  }
}

function originOf(rest: string): string {
  return rest.startsWith('/') ? rest : `/${rest}`
}

/**
 * Segments after normalising: encodings of plain characters decoded, the rest in upper-case hex,
 * empty segments dropped (but a trailing slash kept), dot segments resolved.
 * `undefined`: an encoded slash, dot, backslash, percent or control; `..` above the root; a dot segment with parameters.
 */
export function normaliseSegments(path: string): readonly string[] | undefined {
  if (!path.startsWith('/')) return undefined
  const out: string[] = []
  const parts = path.slice(1).split('/')
  if (parts.length > maxSegments) return undefined
  let trailing = false
  for (const [index, part] of parts.entries()) {
    const segment = normaliseSegment(part)
    if (segment === undefined) return undefined
    const isLast = index === parts.length - 1
    if (segment === '..') {
      if (out.pop() === undefined) return undefined
    } else if (segment !== '' && segment !== '.') {
      // `..;x` is `..` to servers that cut path parameters first.
      if (/^\.{1,2};/.test(segment)) return undefined
      out.push(segment)
    }
    if (isLast) trailing = segment === '' || segment === '.' || segment === '..'
  }
  if (trailing) out.push('')
  return out
}

/** The path that normalised segments stand for. */
export function joinSegments(segments: readonly string[]): string {
  return `/${segments.join('/')}`
}

function normaliseSegment(part: string): string | undefined {
  const state = { isRefused: false }
  const segment = part.replace(/%(.{0,2})/gs, (whole, hex: string) => {
    if (!/^[0-9a-f]{2}$/i.test(hex)) {
      state.isRefused = true
      return whole
    }
    const code = Number.parseInt(hex, 16)
    const char = String.fromCharCode(code)
    // Slash, backslash, dot, percent (a second decoding hides anything), controls.
    if (code < 0x20 || code === 0x7f || '/\\.%'.includes(char)) state.isRefused = true
    return /[A-Za-z0-9\-_~@:$!'()*,]/.test(char) ? char : `%${hex.toUpperCase()}`
  })
  return state.isRefused ? undefined : segment
}

export interface HostAndPort {
  /** Lower case, without a trailing dot. */
  readonly name: string
  readonly port: number | undefined
}

/** Host header or :authority: a DNS name and perhaps a port; no user, no address, nothing else. */
export function parseAuthority(text: string): HostAndPort | undefined {
  const match = /^([a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?)\.?(?::([0-9]{1,5}))?$/i.exec(text)
  const name = match?.[1]?.toLowerCase()
  if (name === undefined || name.includes('..')) return undefined
  // The last label of a name is never all digits (RFC 1123 §2.1); an IPv4 address's is.
  if (/(?:^|\.)[0-9]+$/.test(name)) return undefined
  const port = match?.[2] === undefined ? undefined : Number(match[2])
  if (port !== undefined && (port < 1 || port > 65535)) return undefined
  return { name, port }
}

export interface Parameter {
  readonly raw: string
  /** Decoded. */
  readonly name: string
  readonly value: string
}

/**
 * Query or form parameters, decoded as forms are (`+` is a space). `undefined`: an invalid encoding.
 * The raw pieces joined with `&` are the text again.
 */
export function parseParameters(text: string): readonly Parameter[] | undefined {
  if (text === '') return []
  const out: Parameter[] = []
  for (const raw of text.split('&')) {
    const equals = raw.indexOf('=')
    const name = decodeForm(equals === -1 ? raw : raw.slice(0, equals))
    const value = decodeForm(equals === -1 ? '' : raw.slice(equals + 1))
    if (name === undefined || value === undefined) return undefined
    out.push({ raw, name, value })
  }
  return out
}

function decodeForm(text: string): string | undefined {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return undefined
  }
}

/** Every encoding that can be decoded, decoded; for looking at, not for sending. */
export function decodeLoosely(text: string): string {
  return text.replace(/%([0-9a-f]{2})/gi, (_whole, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  )
}
