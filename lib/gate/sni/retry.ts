/**
 * Watches a TLS connection for a second ClientHello: a server that asks for one (HelloRetryRequest, RFC 8446
 * section 4.1.4) may go by the name in it, which must be the first one's (section 4.1.2). Pure.
 * Invariant: no second hello is whole at the server before it was judged, nor any before the server asked.
 */
import { parseHello } from './hello.js'

const recordHandshake = 22
/** change_cipher_spec, alert, application data (early data comes so), heartbeat: no hello is in them. */
const otherRecords: ReadonlySet<number> = new Set([20, 21, 23, 24])
const headerBytes = 5
const serverHello = 2
/** In a ServerHello's record: its own header, the handshake's, the version. */
const randomAt = headerBytes + 4 + 2
/** RFC 8446 section 4.1.3: SHA-256 of "HelloRetryRequest", in place of the random. */
const retryRandom = Buffer.from(
  'cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c',
  'hex',
)
const none = Buffer.alloc(0)

type State = 'silent' | 'asked' | 'over'

export class RetryWatch {
  readonly #name: string
  #state: State = 'silent'
  /** Of the server's first record, as far as it has come. */
  #answer: Buffer = none
  /** A record's header of the client's, as far as it has come. */
  #header: Buffer = none
  /** Of a record of the client's that is no hello: what has not come yet. */
  #skip = 0
  /** The second hello with its records, as far as it has come. */
  #second: Buffer | undefined

  /** `name`: of the first hello. */
  constructor(name: string) {
    this.#name = name
  }

  /** Nothing can come any more: neither `up` nor `down` need be asked. */
  get isOver(): boolean {
    return this.#state === 'over'
  }

  /** Bytes of the client's behind its first hello; false: they must not go on. */
  up(bytes: Uint8Array): boolean {
    let rest = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    while (!this.isOver && rest.length > 0) {
      if (this.#second !== undefined) return this.#judge(rest)
      if (this.#skip > 0) {
        const skipped = Math.min(this.#skip, rest.length)
        this.#skip -= skipped
        rest = rest.subarray(skipped)
        continue
      }
      const header = Buffer.concat([
        this.#header,
        rest.subarray(0, headerBytes - this.#header.length),
      ])
      rest = rest.subarray(header.length - this.#header.length)
      this.#header = header.length < headerBytes ? header : none
      if (header.length < headerBytes) return true
      const isTls = header[1] === 3
      if (isTls && header[0] === recordHandshake) {
        if (this.#state === 'silent') return false
        this.#second = none
        return this.#judge(Buffer.concat([header, rest]))
      }
      // No TLS: a server ends the connection at that, and reads no hello behind it.
      if (!isTls || !otherRecords.has(header[0] ?? 0)) this.#state = 'over'
      else this.#skip = header.readUInt16BE(3)
    }
    return true
  }

  /** Bytes of the server's; false: they are no answer that can be understood. */
  down(bytes: Uint8Array): boolean {
    if (this.#state !== 'silent') return true
    const end = randomAt + retryRandom.length
    const answer = Buffer.concat([this.#answer, bytes.subarray(0, end - this.#answer.length)])
    this.#answer = answer
    const isHello =
      (answer[0] ?? recordHandshake) === recordHandshake &&
      (answer[headerBytes] ?? serverHello) === serverHello
    if (!isHello) this.#state = 'over'
    else if (answer.length >= end) {
      // In pieces: no server does that, and nothing is guessed.
      if (answer.readUInt16BE(3) < end - headerBytes) return false
      this.#state = answer.subarray(randomAt).equals(retryRandom) ? 'asked' : 'over'
    }
    return true
  }

  #judge(more: Buffer): boolean {
    const second = Buffer.concat([this.#second ?? none, more])
    const hello = parseHello(second)
    if (hello.kind === 'more') {
      this.#second = second
      return true
    }
    this.#state = 'over'
    this.#second = undefined
    return hello.kind === 'hello' && hello.name === this.#name
  }
}
