/**
 * One direction of a relayed connection: bytes are read into a buffer of ours and written from it, without
 * the copy, the object and the queue that Node's streams would make for each chunk.
 * Invariant: no buffer is read into while a write from it is under way, and what a direction may hold is one buffer.
 */
import type { OnReadOpts, Socket } from 'node:net'

/** Of every direction that is idle or slow: what is in it is copied out before anything else is read. */
const shared = Buffer.allocUnsafeSlow(64 * 1024)
/** Of a direction that fills the shared one: a system call moves as much as the kernel's socket buffers hold. */
const ownBytes = 1024 * 1024
/** All directions together; further ones go on with the shared buffer. */
const maxOwn = 32
const free: (typeof shared)[] = []
let taken = 0

/** Asked before bytes go on; false: nothing more does, the connection has been cut. */
export type Allow = (bytes: Uint8Array) => boolean

export class Lane {
  /** For the socket that this direction reads from. */
  readonly onread: OnReadOpts
  #allow: Allow | undefined
  #from: Socket | undefined
  #to: Socket | undefined
  #buffer = shared
  #isWaiting = false
  #isOver = false

  constructor() {
    this.onread = {
      // Asked after each read, for where the next one goes.
      buffer: () => this.#buffer,
      callback: (length, buffer) => this.#pass(length, buffer),
    }
  }

  /** What comes before `join` is handed out by the socket itself, like any stream's. */
  readFrom(from: Socket): void {
    this.#from = from
  }

  /** From here on what is read goes to `to`; `from` must be paused. */
  join(from: Socket, to: Socket, allow: Allow): void {
    this.#from = from
    this.#to = to
    this.#allow = allow
    from.once('close', () => {
      this.#isOver = true
      // A write from it that is still under way keeps it until the garbage collector finds it.
      this.#giveBack(to.writableLength === 0)
    })
  }

  /** False: stop reading until what was passed on is written. */
  #pass(length: number, buffer: Uint8Array): boolean {
    const to = this.#to
    const bytes = buffer.subarray(0, length)
    if (to === undefined) return this.#from?.push(Buffer.from(bytes)) === true
    if (this.#allow?.(bytes) !== true) return false
    to.write(buffer === shared ? Buffer.from(bytes) : bytes, this.#onWritten)
    // The kernel takes most writes at once.
    if (to.writableLength > 0) {
      this.#isWaiting = true
      return false
    }
    this.#resize(length)
    return true
  }

  readonly #onWritten = (): void => {
    if (!this.#isWaiting || this.#to?.writableLength !== 0) return
    this.#isWaiting = false
    this.#from?.resume()
  }

  #resize(length: number): void {
    if (this.#buffer !== shared) {
      if (length < shared.length) this.#giveBack(true)
    } else if (length === shared.length && taken < maxOwn && !this.#isOver) {
      taken++
      this.#buffer = free.pop() ?? Buffer.allocUnsafeSlow(ownBytes)
    }
  }

  #giveBack(isUnused: boolean): void {
    if (this.#buffer === shared) return
    taken--
    if (isUnused) free.push(this.#buffer)
    this.#buffer = shared
  }
}
