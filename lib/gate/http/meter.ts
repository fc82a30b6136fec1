/**
 * Streams that look at every byte on its way.
 * Invariant: nothing is passed on that the limit, the budget or the scan had not seen first.
 */
import { Transform, type TransformCallback } from 'node:stream'
import { openScan } from './body-scan.js'
import { type BodyScan, deny, type Denial } from './message.js'

/** Ends a stream for a reason of the policy. */
export class DeniedError extends Error {
  readonly denial: Denial

  constructor(denial: Denial) {
    super(denial.reason)
    this.denial = denial
  }
}

export interface MeterOptions {
  readonly maxBody: number | undefined
  /** Exactly so many must come (a client over HTTP/2 may announce one length and send another). */
  readonly expected: number | undefined
  /** Asked before each chunk goes on. */
  readonly spend: (bytes: number) => Denial | undefined
  readonly scan: BodyScan | undefined
}

/** Counts a request body; errors with a DeniedError at the first byte too many. */
export class Meter extends Transform {
  bytes = 0
  readonly #options: MeterOptions
  readonly #scan: ReturnType<typeof openScan>

  constructor(options: MeterOptions) {
    super()
    this.#options = options
    this.#scan = openScan(options.scan)
  }

  override _transform(chunk: Buffer, _encoding: string, done: TransformCallback): void {
    const { maxBody, expected, spend } = this.#options
    this.bytes += chunk.length
    if (maxBody !== undefined && this.bytes > maxBody) {
      done(
        new DeniedError(deny(413, 'body-too-large', { detail: `over ${String(maxBody)} bytes` })),
      )
      return
    }
    if (expected !== undefined && this.bytes > expected) {
      done(new DeniedError(deny(400, 'http-malformed', { detail: 'longer than announced' })))
      return
    }
    const denial = spend(chunk.length) ?? this.#scan?.look(chunk)
    if (denial === undefined) done(null, chunk)
    else done(new DeniedError(denial))
  }

  override _flush(done: TransformCallback): void {
    const { expected } = this.#options
    if (expected === undefined || this.bytes === expected) done()
    else done(new DeniedError(deny(400, 'http-malformed', { detail: 'shorter than announced' })))
  }
}

/**
 * Replaces a secret by its placeholder in a response. Bytes that can't be a beginning of the
 * secret go on at once, so that streams stay streams.
 */
export class Scrubber extends Transform {
  readonly #secret: Buffer
  readonly #placeholder: Buffer
  #held: Buffer = Buffer.alloc(0)

  constructor(secret: string, placeholder: string) {
    super()
    this.#secret = Buffer.from(secret)
    this.#placeholder = Buffer.from(placeholder)
  }

  override _transform(chunk: Buffer, _encoding: string, done: TransformCallback): void {
    let rest = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk])
    for (;;) {
      const at = rest.indexOf(this.#secret)
      if (at === -1) break
      this.push(rest.subarray(0, at))
      this.push(this.#placeholder)
      rest = rest.subarray(at + this.#secret.length)
    }
    const keep = this.#beginningAtEnd(rest)
    this.#held = rest.subarray(rest.length - keep)
    done(null, rest.subarray(0, rest.length - keep))
  }

  override _flush(done: TransformCallback): void {
    done(null, this.#held)
  }

  /** Length of the longest end of `bytes` that is a beginning of the secret. */
  #beginningAtEnd(bytes: Buffer): number {
    const most = Math.min(bytes.length, this.#secret.length - 1)
    for (let length = most; length > 0; length--) {
      const end = bytes.subarray(bytes.length - length)
      if (end.equals(this.#secret.subarray(0, length))) return length
    }
    return 0
  }
}
