/**
 * Has the warden look whose socket was denied, or asks for a granted name, while that socket still lives: a client
 * closes it within a fraction of a millisecond of its answer.
 * Invariant: only denials and the first look-up of a name wait, for the warden's word or their patience, whichever comes
 * first, and only so many a second; all others are answered at once.
 */
import { foldKey } from '../audit/fold.js'
import type { Decision } from '../audit/record.js'
import { TokenBucket } from './rate.js'

const perSecond = 10
const atOnce = 20
/** The same of what is granted: less, so that denials do not go without. */
const grantedPerSecond = 5
const grantedAtOnce = 10
/** A look takes some 0.5 ms for UDP and 10 ms for TCP. Below `batchMs`: the decision is on its way then. */
const patienceMs = 30
/** Of an answer that is ready: it is not kept back longer than that for a machine too busy to look. */
const readyPatienceMs = 5
/** Alike denials within this are told as one: the first whose process is found speaks for them. */
const alikeMs = 1_000

/** Tells the warden a client's port, and the name if it is granted; it answers with `seen` and the serial. */
export type SendClient = (serial: number, proto: string, port: number, name?: string) => void

export class Clients {
  readonly #send: SendClient
  readonly #now: () => number
  readonly #bucket: TokenBucket
  readonly #grantedBucket: TokenBucket
  readonly #waiting = new Map<number, (isFound: boolean) => void>()
  /** As few as the bucket gives in `alikeMs`. */
  readonly #recent = new Map<string, number>()
  #serial = 0

  /** `now` in monotonic milliseconds. */
  constructor(send: SendClient, now: () => number) {
    this.#send = send
    this.#now = now
    this.#bucket = new TokenBucket(perSecond, atOnce, now)
    this.#grantedBucket = new TokenBucket(grantedPerSecond, grantedAtOnce, now)
  }

  /** `port`: of the client's own socket. Settles when the look is over; `undefined`: nobody looks. */
  look(decision: Decision, port: number): Promise<void> | undefined {
    const key = foldKey(decision)
    if (this.#isRecent(key) || !this.#bucket.take()) return undefined
    this.#recent.set(key, this.#now())
    // The next one alike is another chance.
    return this.#ask(decision.proto, port, undefined, patienceMs, () => this.#recent.delete(key))
  }

  /**
   * Somebody looks a granted name up: the same for each client, A and AAAA told as one. Who is not looked for is told of
   * as well (port 0, once a second): then it may have been anybody. `isReady`: the answer waits for nothing else.
   */
  lookGranted(
    name: string,
    proto: string,
    port: number,
    isReady: boolean,
  ): Promise<void> | undefined {
    const key = `${proto} ${port} ${name}`
    if (this.#isRecent(key)) return undefined
    if (!this.#grantedBucket.take()) {
      if (this.#isRecent(name)) return undefined
      this.#recent.set(name, this.#now())
      this.#send(++this.#serial, proto, 0, name)
      return undefined
    }
    this.#recent.set(key, this.#now())
    return this.#ask(proto, port, name, isReady ? readyPatienceMs : patienceMs)
  }

  #ask(
    proto: string,
    port: number,
    name: string | undefined,
    patience: number,
    onMissed?: () => void,
  ): Promise<void> {
    const serial = ++this.#serial
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.seen(serial, false)
      }, patience)
      this.#waiting.set(serial, (isFound) => {
        clearTimeout(timer)
        if (!isFound) onMissed?.()
        resolve()
      })
      this.#send(serial, proto, port, name)
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
