/**
 * The command as its session holds it: not launched yet, running, ending.
 * Invariant: a failure told before there is a command ends it the moment there is one.
 */
import { JailError } from '../errors.js'
import type { Running } from '../launch/types.js'

/** Milliseconds between SIGTERM and SIGKILL. */
const stopGrace = 5_000

export class HeldCommand {
  readonly #jail: string
  readonly #onNotice: (text: string) => void
  #running: Running | undefined
  /** What holds it is broken: why. */
  #failure: string | undefined
  #ending = false

  constructor(jail: string, onNotice: (text: string) => void) {
    this.#jail = jail
    this.#onNotice = onNotice
  }

  get running(): Running | undefined {
    return this.#running
  }

  get phase(): 'starting' | 'running' | 'ending' {
    if (this.#ending) return 'ending'
    return this.#running === undefined ? 'starting' : 'running'
  }

  /** It runs. */
  attach(running: Running): void {
    this.#running = running
    for (const note of running.notes) this.#onNotice(note)
    if (this.#failure !== undefined) this.#end(this.#failure, running)
  }

  /** Throws STATE while it starts or ends. */
  live(): Running {
    if (this.#running !== undefined && !this.#ending) return this.#running
    const what = this.#ending ? 'is ending' : 'is not running yet'
    throw new JailError('STATE', `jail ${this.#jail} ${what}`, { hint: 'try again' })
  }

  /** What holds it is broken: it is killed, and the user told why, once. */
  fail(why: string): void {
    if (this.#ending || this.#failure !== undefined) return
    this.#failure = why
    if (this.#running !== undefined) this.#end(why, this.#running)
  }

  /** SIGTERM now, SIGKILL after a grace. Throws STATE as `live`. */
  stop(): void {
    const running = this.live()
    running.signal('SIGTERM')
    setTimeout(() => {
      running.kill()
    }, stopGrace).unref()
  }

  /** Stops it when its time (seconds) is over; undefined: no limit. */
  limit(seconds: number | undefined): NodeJS.Timeout | undefined {
    if (seconds === undefined) return undefined
    return setTimeout(() => {
      this.#onNotice(`the run time limit of ${seconds} s is reached: the command is ended`)
      if (!this.#ending) this.stop()
    }, seconds * 1000)
  }

  /** From here on nothing is a failure any more. */
  beginEnd(): void {
    this.#ending = true
  }

  /** SIGKILL to everything in the jail, and its end. */
  async kill(): Promise<void> {
    this.#running?.kill()
    await this.#running?.ended
  }

  #end(why: string, running: Running): void {
    this.#onNotice(`${why}; the command is ended`)
    running.kill()
  }
}
