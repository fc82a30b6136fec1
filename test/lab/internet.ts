/** The test's handle on the process that plays the internet: what reached it, and what it shall do. */
import type { ChildProcess } from 'node:child_process'
import type { Calls, FromInternet, Served, ToInternet, Visit } from './internet/protocol.js'

export class Internet {
  /** Everything that reached the attacker, or any address that no service has. */
  readonly evil: { received: Visit[] } = { received: [] }
  /** Every request that a vendor's service answered. */
  readonly served: Served[] = []
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (error: string | undefined) => void>()
  #count = 0

  private constructor(child: ChildProcess) {
    this.#child = child
  }

  /** Resolves when all servers listen. */
  static start(child: ChildProcess): Promise<Internet> {
    const internet = new Internet(child)
    return new Promise((resolve, reject) => {
      child.on('message', (message: FromInternet) => {
        if (message.type === 'ready') resolve(internet)
        else internet.#take(message)
      })
      child.on('exit', (code, signal) => {
        const why = `the internet ended: ${code ?? signal}`
        reject(new Error(why))
        for (const settle of internet.#waiting.values()) settle(why)
      })
    })
  }

  #take(message: Exclude<FromInternet, { type: 'ready' }>): void {
    if (message.type === 'visit') this.evil.received.push(message.visit)
    else if (message.type === 'served') this.served.push(message.served)
    else {
      this.#waiting.get(message.id)?.(message.error)
      this.#waiting.delete(message.id)
    }
  }

  call<Name extends keyof Calls>(call: Name, ...args: Parameters<Calls[Name]>): Promise<void> {
    const message: ToInternet = { id: this.#count++, call, args }
    return new Promise((resolve, reject) => {
      this.#waiting.set(message.id, (error) => (error ? reject(new Error(error)) : resolve()))
      this.#child.send(message, (error) => error && reject(error))
    })
  }

  /** A person (Telegram chat `chat`) writes to the bot. */
  pushTelegram(text: string, chat = 1001): Promise<void> {
    return this.call('pushTelegram', text, chat)
  }

  /** Requests that this service answered. */
  servedBy(service: string): Served[] {
    return this.served.filter((s) => s.service === service)
  }
}
