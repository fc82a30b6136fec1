/**
 * Asks the host's resolvers, with queries made here from nothing but a name and a type.
 * Invariant: no byte of a client's query is passed on; an answer counts only if it comes from the
 * asked resolver with our id and our spelling of the name (0x20).
 */
import { randomBytes, randomInt } from 'node:crypto'
import dgram from 'node:dgram'
import net from 'node:net'
import packet, { type DecodedPacket, type RecordType } from 'dns-packet'

export interface UpstreamAddress {
  readonly address: string
  readonly port: number
}

/** `rcode` is there at run time, but not in the library's types. */
export type Answered = DecodedPacket & { readonly rcode: string }

/** Sends one query and gives the decoded answer; rejects when no resolver gave any. */
export type Ask = (name: string, type: RecordType) => Promise<Answered>

/** Two rounds over two resolvers stay below glibc's 5 s per attempt. */
const udpTimeoutMs = 1200
const tcpTimeoutMs = 3000
const rounds = 2
/** As in OpenShell's policy DNS; further ones wait. */
const maxConcurrent = 64
const maxWaiting = 256
/** DNS flag day 2020: avoids fragments. */
const udpPayload = 1232

class UpstreamError extends Error {}

/** A client of the resolvers that `upstreams` returns at the time of each query, in their order. */
export function createAsk(upstreams: () => readonly UpstreamAddress[]): Ask {
  let running = 0
  const waiting: (() => void)[] = []

  return async (name, type) => {
    if (running >= maxConcurrent) {
      if (waiting.length >= maxWaiting) throw new UpstreamError('too many queries in flight')
      await new Promise<void>((resolve) => waiting.push(resolve))
    }
    running++
    try {
      return await askInTurn(upstreams(), name, type)
    } finally {
      running--
      waiting.shift()?.()
    }
  }
}

/** Fails over on time-out and transport errors only: a SERVFAIL that arrives is an answer. */
async function askInTurn(
  upstreams: readonly UpstreamAddress[],
  name: string,
  type: RecordType,
): Promise<Answered> {
  let last: unknown = new UpstreamError('no resolver is configured')
  for (let round = 0; round < rounds; round++) {
    for (const upstream of upstreams) {
      try {
        return await askOne(upstream, name, type)
      } catch (error) {
        last = error
      }
    }
  }
  throw last
}

async function askOne(
  upstream: UpstreamAddress,
  name: string,
  type: RecordType,
): Promise<Answered> {
  const query = makeQuery(name, type)
  const overUdp = await exchangeUdp(upstream, query)
  // Truncated, or the spelling came back changed: TCP can't be forged from outside.
  if (overUdp !== 'use-tcp') return overUdp
  return await exchangeTcp(upstream, query)
}

interface OwnQuery {
  readonly id: number
  /** With random case (draft-vixie-dnsext-dns0x20). */
  readonly name: string
  readonly type: RecordType
  readonly bytes: Buffer
}

function makeQuery(plainName: string, type: RecordType): OwnQuery {
  const id = randomInt(0x10000)
  const name = randomCase(plainName)
  const bytes = packet.encode({
    type: 'query',
    id,
    flags: packet.RECURSION_DESIRED,
    questions: [{ name, type, class: 'IN' }],
    additionals: [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize: udpPayload,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: 0,
        flag_do: false,
        options: [],
      },
    ],
  })
  return { id, name, type, bytes }
}

/** Every letter in a random case. */
function randomCase(name: string): string {
  const bits = randomBytes(name.length)
  return Array.from(name, (char, index) =>
    ((bits[index] ?? 0) & 1) === 1 ? char.toUpperCase() : char,
  ).join('')
}

/** `undefined`: not an answer to our query. */
function readAnswer(
  query: OwnQuery,
  message: Buffer,
  exactCase: boolean,
): Answered | 'case' | undefined {
  let answer: Answered
  try {
    answer = packet.decode(message) as Answered
  } catch {
    return undefined
  }
  const question = answer.questions?.[0]
  if (answer.type !== 'response' || answer.id !== query.id) return undefined
  if (question === undefined || answer.questions?.length !== 1) return undefined
  if (question.type !== query.type || question.class !== 'IN') return undefined
  if (question.name === query.name) return answer
  if (question.name.toLowerCase() !== query.name.toLowerCase()) return undefined
  return exactCase ? 'case' : answer
}

/** A socket of its own for each query: a random source port, and only the resolver's datagrams arrive. */
function exchangeUdp(upstream: UpstreamAddress, query: OwnQuery): Promise<Answered | 'use-tcp'> {
  return new Promise((resolve, reject) => {
    const socket = dgram.createSocket(net.isIPv6(upstream.address) ? 'udp6' : 'udp4')
    const timer = setTimeout(() => {
      end(() => reject(new UpstreamError('the resolver did not answer in time')))
    }, udpTimeoutMs)
    let ended = false
    const end = (settle: () => void): void => {
      if (ended) return
      ended = true
      clearTimeout(timer)
      socket.close()
      settle()
    }
    socket.on('error', (error) => {
      end(() => reject(error))
    })
    socket.on('message', (message) => {
      const answer = readAnswer(query, message, true)
      if (answer === undefined) return
      if (answer === 'case' || answer.flag_tc) end(() => resolve('use-tcp'))
      else end(() => resolve(answer))
    })
    // Where connect(2) fails, as without a route, Node tells the callback alone.
    socket.connect(upstream.port, upstream.address, (error?: Error) => {
      if (error !== undefined) end(() => reject(error))
      else if (!ended) socket.send(query.bytes)
    })
  })
}

function exchangeTcp(upstream: UpstreamAddress, query: OwnQuery): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host: upstream.address, port: upstream.port })
    let received = Buffer.alloc(0)
    const fail = (message: string): void => {
      socket.destroy()
      reject(new UpstreamError(message))
    }
    socket.setTimeout(tcpTimeoutMs, () => {
      fail('the resolver did not answer in time')
    })
    socket.on('error', (error) => {
      socket.destroy()
      reject(error)
    })
    socket.on('close', () => {
      reject(new UpstreamError('the resolver closed the connection'))
    })
    socket.on('connect', () => {
      const length = Buffer.alloc(2)
      length.writeUInt16BE(query.bytes.length)
      socket.write(Buffer.concat([length, query.bytes]))
    })
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk])
      if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return
      const message = received.subarray(2, 2 + received.readUInt16BE(0))
      const answer = readAnswer(query, message, false)
      if (answer === undefined || answer === 'case') {
        fail('the resolver sent something else than an answer')
        return
      }
      socket.destroy()
      resolve(answer)
    })
  })
}
