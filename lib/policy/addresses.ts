/**
 * IP addresses and CIDRs: strict parse, canonical text, containment, classes.
 * Invariant: only canonical literals get in (no octal, hex or short forms, no zone ids, no mapped
 * IPv6), and an address that is not plainly public is never classed as `public`.
 */
import { type Problem, isProblem, problem, quote } from './problem.js'
import type { Cidr } from './types.js'

/** 4 or 16 bytes, network order. */
export type AddressBytes = Uint8Array

/** The bytes of an address literal, or `undefined`. Takes any valid IPv6 spelling, strict dotted IPv4. */
export function parseAddress(text: string): AddressBytes | undefined {
  return text.includes(':') ? parseV6(text) : parseV4(text)
}

function parseV4(text: string): AddressBytes | undefined {
  const parts = text.split('.')
  if (parts.length !== 4) return undefined
  const bytes = new Uint8Array(4)
  for (const [i, part] of parts.entries()) {
    if (!/^(?:0|[1-9]\d{0,2})$/.test(part)) return undefined
    const value = Number(part)
    if (value > 255) return undefined
    bytes[i] = value
  }
  return bytes
}

function parseV6(text: string): AddressBytes | undefined {
  if (text.length > 45) return undefined
  const halves = text.split('::')
  if (halves.length > 2) return undefined
  const head = parseGroups(halves[0] ?? '', halves.length === 1)
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? '', true) : []
  if (!head || !tail) return undefined
  const missing = 16 - head.length - tail.length
  // RFC 4291 §2.2: `::` stands for one or more groups.
  if (halves.length === 2 ? missing < 2 : missing !== 0) return undefined
  return Uint8Array.from([...head, ...new Array<number>(missing).fill(0), ...tail])
}

/** Colon-separated groups to bytes; a dotted IPv4 may stand last. */
function parseGroups(text: string, isEnd: boolean): number[] | undefined {
  if (text === '') return []
  const bytes: number[] = []
  const groups = text.split(':')
  for (const [i, group] of groups.entries()) {
    if (group.includes('.')) {
      const v4 = isEnd && i === groups.length - 1 ? parseV4(group) : undefined
      if (!v4) return undefined
      bytes.push(...v4)
    } else {
      if (!/^[0-9a-f]{1,4}$/i.test(group)) return undefined
      const value = parseInt(group, 16)
      bytes.push(value >> 8, value & 0xff)
    }
  }
  return bytes
}

/** Canonical text: dotted IPv4, RFC 5952 IPv6 (lower case, longest run of zeros shortened). */
export function formatAddress(bytes: AddressBytes): string {
  if (bytes.length === 4) return bytes.join('.')
  const groups = Array.from(
    { length: 8 },
    (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0),
  )
  const run = longestZeroRun(groups)
  const hex = (part: readonly number[]): string => part.map((g) => g.toString(16)).join(':')
  if (run.length < 2) return hex(groups)
  return `${hex(groups.slice(0, run.start))}::${hex(groups.slice(run.start + run.length))}`
}

function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 }
  let start = 0
  for (let i = 0; i <= groups.length; i++) {
    if (groups[i] === 0) continue
    if (i - start > best.length) best = { start, length: i - start }
    start = i + 1
  }
  return best
}

/** The canonical text of an address literal, or `undefined`. IPv4-mapped IPv6 stays IPv6. */
export function canonicalAddress(text: string): string | undefined {
  const bytes = parseAddress(text)
  return bytes && formatAddress(bytes)
}

/**
 * The address that a dual-stack socket means: `::ffff:203.0.113.10` is 203.0.113.10, all else as it is,
 * canonical. `undefined` for what is no address.
 */
export function unmapAddress(text: string): string | undefined {
  const bytes = parseAddress(text)
  if (!bytes) return undefined
  return formatAddress(isMapped(bytes) ? bytes.slice(12) : bytes)
}

function isMapped(bytes: AddressBytes): boolean {
  return bytes.length === 16 && hasPrefix(bytes, mappedPrefix, 96)
}

/** RFC 4291 §2.5.5.2. */
const mappedPrefix = Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0])

function hasPrefix(bytes: AddressBytes, network: AddressBytes, prefix: number): boolean {
  if (bytes.length !== network.length) return false
  const whole = prefix >> 3
  for (let i = 0; i < whole; i++) if (bytes[i] !== network[i]) return false
  const rest = prefix & 7
  if (rest === 0) return true
  const mask = (0xff << (8 - rest)) & 0xff
  return ((bytes[whole] ?? 0) & mask) === ((network[whole] ?? 0) & mask)
}

/** Parses `address` or `address/prefix` in canonical spelling with the host bits zero. */
export function parseCidr(text: string): Cidr | Problem {
  const given = quote(text)
  const slash = text.indexOf('/')
  const addressText = slash === -1 ? text : text.slice(0, slash)
  const bytes = parseAddress(addressText)
  if (!bytes) return cidrProblem(addressText, given)
  if (isMapped(bytes)) {
    return problem(
      `${given} is IPv4 mapped into IPv6`,
      `write ${formatAddress(bytes.slice(12))} instead`,
    )
  }
  const bits = bytes.length * 8
  const prefixText = slash === -1 ? String(bits) : text.slice(slash + 1)
  const prefix = /^(?:0|[1-9]\d{0,2})$/.test(prefixText) ? Number(prefixText) : Infinity
  if (prefix > bits) {
    return problem(
      `${given} has no valid prefix length`,
      `write 0 to ${String(bits)} after the slash`,
    )
  }
  const network = maskBytes(bytes, prefix)
  const address = formatAddress(network)
  const right = slash === -1 ? address : `${address}/${String(prefix)}`
  if (address !== formatAddress(bytes)) {
    return problem(`${given} has bits set after its prefix`, `write ${right}`)
  }
  if (addressText !== address) return problem(`${given} is not in canonical form`, `write ${right}`)
  return { family: bytes.length === 4 ? 4 : 6, address, prefix }
}

function cidrProblem(address: string, given: string): Problem {
  if (address.includes('%')) {
    return problem(`${given} has a zone id`, 'write the address without % and what follows')
  }
  if (/^[\da-fx.]+$/i.test(address) && /\d/.test(address)) {
    return problem(
      `${given} is not a plain IPv4 address`,
      'write four decimal numbers 0-255 without leading zeros, e.g. 203.0.113.0/24',
    )
  }
  return problem(`${given} is not an address`, 'write an address or CIDR, e.g. 203.0.113.0/24')
}

function maskBytes(bytes: AddressBytes, prefix: number): AddressBytes {
  return bytes.map((byte, i) => {
    const keep = Math.min(8, Math.max(0, prefix - i * 8))
    return byte & ((0xff << (8 - keep)) & 0xff)
  })
}

/** The CIDR as it is written in a policy. */
export function formatCidr(cidr: Cidr): string {
  return cidr.prefix === (cidr.family === 4 ? 32 : 128)
    ? cidr.address
    : `${cidr.address}/${String(cidr.prefix)}`
}

const cidrBytes = new WeakMap<Cidr, AddressBytes>()

/** Whether the address literal lies in the CIDR; false for what is no address, or of the other family. */
export function contains(cidr: Cidr, address: string): boolean {
  const bytes = parseAddress(address)
  if (!bytes) return false
  let network = cidrBytes.get(cidr)
  if (!network) {
    network = parseAddress(cidr.address)
    if (!network) return false
    cidrBytes.set(cidr, network)
  }
  return hasPrefix(bytes, network, cidr.prefix)
}

/**
 * What kind of address this is. Only `public` may be dialled for a name without the policy's word;
 * `private` and `shared` open with `private: true`, nothing opens the others by name.
 */
export type AddressClass =
  | 'public'
  | 'private'
  | 'shared'
  | 'loopback'
  | 'link-local'
  | 'metadata'
  | 'multicast'
  | 'unspecified'
  | 'benchmark'
  | 'reserved'
  | 'translated'
  | 'invalid'

/**
 * First match decides. IANA special-purpose registries (RFC 6890 and its successors) unless noted.
 * The documentation ranges (192.0.2.0/24, 2001:db8::/32, …) are left as `public`: nobody's network
 * has them, and test networks do.
 */
const classes: readonly (readonly [AddressClass, ...string[]])[] = [
  // Metadata services of clouds, by their own manuals: EC2 and most others, ECS tasks, EC2's time and
  // DNS servers, Alibaba, Azure's wire server, Oracle; EC2 over IPv6, Google over IPv6.
  ['metadata', '169.254.169.254', '169.254.170.2', '169.254.169.253', '169.254.169.123'],
  ['metadata', '100.100.100.200', '168.63.129.16', '192.0.0.192'],
  ['metadata', 'fd00:ec2::/32', 'fd20:ce::254'],
  ['unspecified', '0.0.0.0/8', '::'],
  ['loopback', '127.0.0.0/8', '::1'],
  ['link-local', '169.254.0.0/16', 'fe80::/10'],
  ['private', '10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7'],
  ['shared', '100.64.0.0/10'],
  ['multicast', '224.0.0.0/4', 'ff00::/8'],
  ['benchmark', '198.18.0.0/15', '2001:2::/48'],
  // IPv6 that carries an IPv4 address: compatible, translated (RFC 2765), NAT64, 6to4 and Teredo.
  ['translated', '::/96', '::ffff:0:0:0/96', '64:ff9b::/96', '64:ff9b:1::/48', '2002::/16'],
  ['translated', '2001::/32', '192.88.99.0/24'],
  ['reserved', '192.0.0.0/24', '240.0.0.0/4', '2001:10::/28', '2001:20::/28'],
  ['public', '0.0.0.0/0', '2000::/3'],
  ['reserved', '::/0'],
]

interface CompiledClass {
  readonly name: AddressClass
  readonly network: NonNullable<ReturnType<typeof parseAddress>>
  readonly prefix: number
}

/** When first asked for: most starts need none of it. */
let compiled: readonly CompiledClass[] | undefined

function compileClasses(): readonly CompiledClass[] {
  return classes.flatMap(([name, ...texts]) =>
    texts.map((text) => {
      const cidr = parseCidr(text)
      const network = isProblem(cidr) ? undefined : parseAddress(cidr.address)
      if (isProblem(cidr) || !network) throw new TypeError(`bad CIDR in the table: ${text}`)
      return { name, network, prefix: cidr.prefix }
    }),
  )
}

export function classifyAddress(address: string): AddressClass {
  const bytes = parseAddress(address)
  if (!bytes) return 'invalid'
  if (isMapped(bytes)) return 'translated'
  compiled ??= compileClasses()
  return (
    compiled.find(({ network, prefix }) => hasPrefix(bytes, network, prefix))?.name ?? 'invalid'
  )
}
