/**
 * The client's side of DNS on the wire: a strict parser of queries and a printer of answers (RFC 1035, 6891, 8914).
 * Written by hand because it runs once a query on the hot path; the fuzz run checks it against dns-packet.
 * Invariant: nothing is accepted that another parser could read as a second question or another name.
 */

/** Record types by number (IANA DNS parameters); others are shown as `TYPE123`. */
const typeNames = new Map<number, string>([
  [1, 'A'],
  [2, 'NS'],
  [5, 'CNAME'],
  [6, 'SOA'],
  [10, 'NULL'],
  [12, 'PTR'],
  [13, 'HINFO'],
  [15, 'MX'],
  [16, 'TXT'],
  [28, 'AAAA'],
  [33, 'SRV'],
  [35, 'NAPTR'],
  [43, 'DS'],
  [48, 'DNSKEY'],
  [52, 'TLSA'],
  [64, 'SVCB'],
  [65, 'HTTPS'],
  [251, 'IXFR'],
  [252, 'AXFR'],
  [255, 'ANY'],
  [257, 'CAA'],
])

export const recordType = { A: 1, AAAA: 28, SRV: 33 } as const

/** The name of a record type, e.g. `AAAA`, `TYPE999`. */
export function typeName(type: number): string {
  return typeNames.get(type) ?? `TYPE${type}`
}

/** Response codes: RFC 1035 section 4.1.1, RFC 6891 section 9 (BADVERS). */
export const rcode = { ok: 0, formErr: 1, servFail: 2, nxDomain: 3, badVers: 16 } as const

/** Extended DNS errors: RFC 8914 section 4. */
export const extendedError = { other: 0, blocked: 15, networkError: 23 } as const

/** Larger queries are refused; no honest one comes near. */
const maxQueryBytes = 8192
/** Largest answer over UDP, whatever the client says (DNS flag day 2020). */
const maxUdpAnswer = 1232
const headerBytes = 12

export interface Query {
  readonly kind: 'query'
  readonly id: number
  readonly recursionDesired: boolean
  /** Lower case, without the trailing dot; the root is ''. Odd bytes are shown as `\ddd`. */
  readonly name: string
  /** Every label is of letters, digits, `-` and `_` only. A name that is not can't be granted. */
  readonly plain: boolean
  readonly type: number
  /** Offset just behind the question. */
  readonly questionEnd: number
  /** The answer may be this large over UDP. */
  readonly udpSize: number
  /** The client spoke EDNS, so the answer may carry an extended error. */
  readonly edns: boolean
}

export type ParsedQuery =
  | Query
  /** Answer with this code and nothing else. */
  | { readonly kind: 'bad'; readonly id: number; readonly rcode: number; readonly edns: boolean }
  /** Not a query at all: an answer would only make noise. */
  | { readonly kind: 'drop' }

/** Parses one DNS query. Never throws. */
export function parseQuery(message: Buffer): ParsedQuery {
  if (message.length < headerBytes) return { kind: 'drop' }
  const flags = message.readUInt16BE(2)
  if ((flags & 0x8000) !== 0) return { kind: 'drop' }
  const id = message.readUInt16BE(0)
  const bad = (code: number = rcode.formErr): ParsedQuery => ({
    kind: 'bad',
    id,
    rcode: code,
    edns: code === rcode.badVers,
  })
  if (message.length > maxQueryBytes) return bad()
  // Opcode QUERY, not truncated, exactly one question, no answers or authorities, at most an OPT.
  if ((flags & 0x7a00) !== 0) return bad()
  const additional = message.readUInt16BE(10)
  if (message.readUInt16BE(4) !== 1 || message.readUInt32BE(6) !== 0 || additional > 1) return bad()

  let offset = headerBytes
  let name = ''
  let plain = true
  for (;;) {
    const length = message[offset]
    // Above 63 is a compression pointer or reserved: no question needs one.
    if (length === undefined || length > 63) return bad()
    offset++
    if (length === 0) break
    const end = offset + length
    // 255 octets with all length bytes: RFC 1035 section 2.3.4.
    if (end >= message.length || end - headerBytes > 254) return bad()
    if (name !== '') name += '.'
    for (; offset < end; offset++) {
      const byte = message.readUInt8(offset)
      if (isPlain(byte)) {
        name += String.fromCharCode(byte >= 0x41 && byte <= 0x5a ? byte + 0x20 : byte)
      } else {
        plain = false
        name += `\\${String(byte).padStart(3, '0')}`
      }
    }
  }
  if (offset + 4 > message.length) return bad()
  const type = message.readUInt16BE(offset)
  if (message.readUInt16BE(offset + 2) !== 1) return bad()
  const questionEnd = offset + 4

  let udpSize = 512
  if (additional === 1) {
    const opt = parseOpt(message, questionEnd)
    if (opt === undefined) return bad()
    if (opt.version !== 0) return bad(rcode.badVers)
    udpSize = Math.min(Math.max(opt.udpSize, 512), maxUdpAnswer)
  } else if (questionEnd !== message.length) {
    return bad()
  }
  return {
    kind: 'query',
    id,
    recursionDesired: (flags & 0x0100) !== 0,
    name,
    plain,
    type,
    questionEnd,
    udpSize,
    edns: additional === 1,
  }
}

/** The OPT record (RFC 6891 section 6.1.2), which must end the message. Its options are checked and ignored. */
function parseOpt(
  message: Buffer,
  start: number,
): { readonly udpSize: number; readonly version: number } | undefined {
  if (start + 11 > message.length) return undefined
  if (message[start] !== 0 || message.readUInt16BE(start + 1) !== 41) return undefined
  const end = start + 11 + message.readUInt16BE(start + 9)
  if (end !== message.length) return undefined
  let offset = start + 11
  while (offset < end) {
    if (offset + 4 > end) return undefined
    offset += 4 + message.readUInt16BE(offset + 2)
  }
  if (offset !== end) return undefined
  return { udpSize: message.readUInt16BE(start + 3), version: message.readUInt8(start + 6) }
}

function isPlain(byte: number): boolean {
  return (
    (byte >= 0x61 && byte <= 0x7a) ||
    (byte >= 0x30 && byte <= 0x39) ||
    (byte >= 0x41 && byte <= 0x5a) ||
    byte === 0x2d ||
    byte === 0x5f
  )
}

export interface Answer {
  readonly rcode: number
  /** Resource records, printed by `addressRecords` or `srvRecords`. */
  readonly records?: Buffer
  readonly count?: number
  /** Seconds, written into every record. */
  readonly ttl?: number
  readonly error?: { readonly code: number; readonly text: string }
}

/** Prints the answer to `query`. Over UDP a too large one becomes an empty one with TC set. */
export function printAnswer(
  message: Buffer,
  query: Query,
  answer: Answer,
  transport: 'udp' | 'tcp',
): Buffer {
  const opt = query.edns ? printOpt(answer.error, answer.rcode >> 4) : noBytes
  const limit = transport === 'udp' ? query.udpSize : 65535
  let records = answer.records ?? noBytes
  let count = answer.count ?? 0
  let truncated = 0
  if (query.questionEnd + records.length + opt.length > limit) {
    records = noBytes
    count = 0
    truncated = 0x0200
  }
  const out = Buffer.allocUnsafe(query.questionEnd + records.length + opt.length)
  message.copy(out, headerBytes, headerBytes, query.questionEnd)
  const flags = 0x8080 | truncated | (query.recursionDesired ? 0x0100 : 0) | (answer.rcode & 0x000f)
  out.writeUInt16BE(query.id, 0)
  out.writeUInt16BE(flags, 2)
  out.writeUInt16BE(1, 4)
  out.writeUInt16BE(count, 6)
  out.writeUInt16BE(0, 8)
  out.writeUInt16BE(query.edns ? 1 : 0, 10)
  records.copy(out, query.questionEnd)
  if (answer.ttl !== undefined && count > 0) {
    setTtl(out, query.questionEnd, count, answer.ttl)
  }
  opt.copy(out, query.questionEnd + records.length)
  return out
}

/** The answer to a query that could not be read: a bare header. */
export function printError(id: number, code: number, edns: boolean): Buffer {
  const opt = edns ? printOpt(undefined, code >> 4) : noBytes
  const header = Buffer.alloc(headerBytes)
  header.writeUInt16BE(id, 0)
  header.writeUInt16BE(0x8080 | (code & 0x000f), 2)
  header.writeUInt16BE(edns ? 1 : 0, 10)
  return Buffer.concat([header, opt])
}

const noBytes = Buffer.alloc(0)

function printOpt(error: Answer['error'], extendedRcode: number): Buffer {
  // RFC 8914 section 2: option 15, info-code, UTF-8 text without a terminator.
  const text = error === undefined ? noBytes : Buffer.from(error.text.slice(0, 200), 'utf8')
  const options = error === undefined ? 0 : 6 + text.length
  const opt = Buffer.alloc(11 + options)
  opt.writeUInt16BE(41, 1)
  opt.writeUInt16BE(maxUdpAnswer, 3)
  opt[5] = extendedRcode
  opt.writeUInt16BE(options, 9)
  if (error !== undefined) {
    opt.writeUInt16BE(15, 11)
    opt.writeUInt16BE(2 + text.length, 13)
    opt.writeUInt16BE(error.code, 15)
    text.copy(opt, 17)
  }
  return opt
}

/** Records for addresses of one family, owned by the question's name (a pointer to offset 12). TTL 0. */
export function addressRecords(addresses: readonly Uint8Array[]): Buffer {
  return Buffer.concat(
    addresses.map((address) => {
      const head = Buffer.alloc(12)
      head.writeUInt16BE(0xc00c, 0)
      head.writeUInt16BE(address.length === 4 ? recordType.A : recordType.AAAA, 2)
      head.writeUInt16BE(1, 4)
      head.writeUInt16BE(address.length, 10)
      return Buffer.concat([head, address])
    }),
  )
}

export interface SrvRecord {
  readonly priority: number
  readonly weight: number
  readonly port: number
  readonly target: string
}

/** SRV records (RFC 2782; the target is not compressed). TTL 0. */
export function srvRecords(records: readonly SrvRecord[]): Buffer {
  return Buffer.concat(
    records.map((record) => {
      const target = Buffer.concat([
        ...record.target
          .split('.')
          .map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label)])),
        Buffer.from([0]),
      ])
      const head = Buffer.alloc(18)
      head.writeUInt16BE(0xc00c, 0)
      head.writeUInt16BE(recordType.SRV, 2)
      head.writeUInt16BE(1, 4)
      head.writeUInt16BE(6 + target.length, 10)
      head.writeUInt16BE(record.priority, 12)
      head.writeUInt16BE(record.weight, 14)
      head.writeUInt16BE(record.port, 16)
      return Buffer.concat([head, target])
    }),
  )
}

function setTtl(out: Buffer, start: number, count: number, ttl: number): void {
  let offset = start
  for (let record = 0; record < count; record++) {
    out.writeUInt32BE(ttl, offset + 6)
    offset += 12 + out.readUInt16BE(offset + 10)
  }
}
