/**
 * Has the warden look whose socket was denied, while that socket still lives: a client closes it within
 * a fraction of a millisecond of its answer.
 * Invariant: only denials wait, for the warden's word or `patienceMs`, whichever comes first, and only so
 * many a second; all others, and everything allowed, are answered at once.
 */
import { foldKey } from '../audit/fold.js'
import type { Decision } from '../audit/record.js'
import { TokenBucket } from './rate.js'

const perSecond = 10
const atOnce = 20
/** A look takes some 0.5 ms for UDP and 10 ms for TCP. Below `batchMs`: the decision is on its way then. */
const patienceMs = 30
/** Alike denials within this are told as one: the first whose process is found speaks for them. */
const alikeMs = 1_000

/** Tells the warden a client's port; it answers with `seen` and the serial. */
export type SendClient = (serial: number, proto: string, port: number) => void

export class Clients {
  readonly #send: SendClient
  readonly #now: () => number
  readonly #bucket: TokenBucket
  readonly #waiting = new Map<number, (isFound: boolean) => void>()
  /** As few as the bucket gives in `alikeMs`. */
  readonly #recent = new Map<string, number>()
  #serial = 0

  /** `now` in monotonic milliseconds. */
  constructor(send: SendClient, now: () => number) {
    this.#send = send
    this.#now = now
    this.#bucket = new TokenBucket(perSecond, atOnce, now)
  }

  /** `port`: of the client's own socket. Settles when the look is over; `undefined`: nobody looks. */
  look(decision: Decision, port: number): Promise<void> | undefined {
    const key = foldKey(decision)
    if (this.#isRecent(key) || !this.#bucket.take()) return undefined
    this.#recent.set(key, this.#now())
    const serial = ++this.#serial
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.seen(serial, false)
      }, patienceMs)
      this.#waiting.set(serial, (isFound) => {
        clearTimeout(timer)
        // The next one alike is another chance.
        if (!isFound) this.#recent.delete(key)
        resolve()
      })
      this.#send(serial, decision.proto, port)
    })
  }

  seen(serial: number, isFound: boolean): void {
    this.#waiting.get(serial)?.(isFound)
    this.#waiting.delete(serial)
  }

  #isRecent(key: string): boolean {
    for (const [known, at] of this.#recent) {
      if (this.#now() - at < alikeMs) break
      this.#recent.delete(known)
    }
    return this.#recent.has(key)
  }
}
