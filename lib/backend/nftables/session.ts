/**
 * One long-lived `nft -j -i` on a pipe: a change costs a third of a millisecond instead of a spawn.
 * Invariant: commands go one at a time, and each is acknowledged by a listing before the next is sent.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { errorMessage, JailError } from '../../errors.js'
import type { Argv, Session, System } from '../../system/types.js'

/** Milliseconds to wait for nft's answer. */
const answerTimeout = 30_000
const afterError = 30

export interface NftSession {
  readonly pid: number
  /** Runs commands as one transaction; rejects with nft's first error line. `ack` lists something cheap. */
  change(commands: readonly string[], ack: string): Promise<unknown>
  /** The JSON answer of one `list ...`. */
  list(command: string): Promise<unknown>
  onExit(listener: () => void): void
  hasEnded(): boolean
  close(): Promise<void>
  kill(): void
}

/** Starts nft; `prefix` may place it in a namespace (`unshare --net --`). */
export function openNft(system: System, argv: Argv): NftSession {
  try {
    return new PipedNft(system.open(argv))
  } catch (error) {
    throw cannotStart(error)
  }
}

/** The session of a jail's hold: in a network namespace of its own, or on the host's. */
export const sessionArgv = (
  { nft, unshare }: { readonly nft: string; readonly unshare: string },
  isolation: 'namespace' | 'uid',
): Argv =>
  isolation === 'namespace' ? [unshare, '--net', '--', nft, '-j', '-i'] : [nft, '-j', '-i']

/** The same, for a jail's start. */
export async function openNftSoon(system: System, argv: Argv): Promise<NftSession> {
  try {
    return new PipedNft(await (system.openSoon?.(argv) ?? system.open(argv)))
  } catch (error) {
    throw cannotStart(error)
  }
}

function cannotStart(error: unknown): JailError {
  if (error instanceof JailError) return error
  return new JailError('BACKEND', `cannot start nft: ${errorMessage(error)}`, { cause: error })
}

class PipedNft implements NftSession {
  readonly pid: number
  readonly #session: Session
  #queue: Promise<unknown> = Promise.resolve()
  #errors = ''
  #waiting: ((line: string) => void) | undefined
  #ended = false
  readonly #onExit: (() => void)[] = []

  constructor(session: Session) {
    this.#session = session
    this.pid = session.pid
    session.onLine((line) => {
      if (line.startsWith('{')) this.#waiting?.(line)
    })
    session.onErrorText((text) => {
      this.#errors += text
      // After an error the listing that acknowledges may fail too: it gets a moment, not the whole time-out.
      const waiting = this.#waiting
      setTimeout(() => waiting?.(''), afterError).unref()
    })
    session.onExit(() => {
      this.#ended = true
      this.#waiting?.('')
      for (const listener of this.#onExit) listener()
    })
  }

  change(commands: readonly string[], ack: string): Promise<unknown> {
    return this.#enqueue(`${commands.join('; ')}\n${ack}\n`)
  }

  list(command: string): Promise<unknown> {
    return this.#enqueue(`${command}\n`)
  }

  onExit(listener: () => void): void {
    this.#onExit.push(listener)
  }

  hasEnded(): boolean {
    return this.#ended
  }

  close(): Promise<void> {
    return this.#session.end()
  }

  kill(): void {
    this.#session.kill()
  }

  #enqueue(text: string): Promise<unknown> {
    const next = this.#queue.then(
      () => this.#ask(text),
      () => this.#ask(text),
    )
    this.#queue = next.catch(() => undefined)
    return next
  }

  async #ask(text: string): Promise<unknown> {
    if (this.#ended) throw new JailError('BACKEND', 'nft has ended')
    this.#errors = ''
    let timer: NodeJS.Timeout | undefined
    const answer = new Promise<string>((resolve) => {
      timer = setTimeout(() => {
        resolve('')
      }, answerTimeout)
      this.#waiting = resolve
    })
    try {
      await this.#session.write(text)
    } catch (error) {
      clearTimeout(timer)
      throw new JailError('BACKEND', `cannot reach nft: ${errorMessage(error)}`, { cause: error })
    }
    const line = await answer
    clearTimeout(timer)
    this.#waiting = undefined
    // An error is written before the acknowledgement, on another pipe: both are readable by now.
    await nextTurn()
    if (this.#errors !== '')
      throw new JailError('BACKEND', `nft refused: ${firstLine(this.#errors)}`)
    if (line === '') throw new JailError('BACKEND', 'nft does not answer')
    try {
      return JSON.parse(line) as unknown
    } catch (error) {
      throw new JailError('BACKEND', `nft answered with no JSON: ${line.slice(0, 80)}`, {
        cause: error,
      })
    }
  }
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? ''
}
