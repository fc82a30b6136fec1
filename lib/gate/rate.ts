/**
 * A token bucket.
 * Invariant: over any span of t seconds at most `burst + perSecond * t` takings succeed.
 */
export class TokenBucket {
  readonly #now: () => number
  #perSecond: number
  #burst: number
  #tokens: number
  #at: number

  /** `now` in monotonic milliseconds; the bucket starts full. */
  constructor(perSecond: number, burst: number, now: () => number) {
    this.#perSecond = perSecond
    this.#burst = Math.max(1, burst)
    this.#tokens = this.#burst
    this.#now = now
    this.#at = now()
  }

  take(): boolean {
    const now = this.#now()
    this.#tokens = Math.min(this.#burst, this.#tokens + ((now - this.#at) / 1000) * this.#perSecond)
    this.#at = now
    if (this.#tokens < 1) return false
    this.#tokens--
    return true
  }

  /** A reload changes the rate; what was taken stays taken. */
  set(perSecond: number, burst: number): void {
    this.#perSecond = perSecond
    this.#burst = Math.max(1, burst)
  }
}
