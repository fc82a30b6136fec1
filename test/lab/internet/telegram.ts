/** api.telegram.org: the part of the Bot API that a small bot uses; long polling included. */
import { json, parseObject, type Exchange, type Handler } from './http.js'

interface Update {
  readonly update_id: number
  readonly message: object
}

const bot = { id: 4242, is_bot: true, first_name: 'Lab', username: 'lab_bot' }

export class Telegram {
  #updates: Update[] = []
  #nextId = 1
  readonly #waiting = new Set<() => void>()

  /** A person writes to the bot. */
  push(text: string, chat: number): void {
    const id = this.#nextId++
    const from = { id: chat, is_bot: false, first_name: 'Alice', language_code: 'en' }
    this.#updates.push({
      update_id: id,
      message: {
        message_id: id,
        from,
        chat: { id: chat, first_name: 'Alice', type: 'private' },
        date: Math.floor(Date.now() / 1000),
        text,
      },
    })
    for (const wake of this.#waiting) wake()
  }

  readonly handle: Handler = async (exchange) => {
    const [, token, method] = /^\/bot([^/]+)\/(\w+)$/.exec(exchange.url.pathname) ?? []
    if (!/^\d+:[\w-]+$/.test(token ?? '')) return fail(exchange, 401, 'Unauthorized')
    const fields = exchange.url.searchParams
    const body = parseObject(exchange.body) ?? new URLSearchParams(exchange.body.toString())
    const values: Record<string, unknown> = {
      ...Object.fromEntries(fields),
      ...(body instanceof URLSearchParams ? Object.fromEntries(body) : body),
    }
    switch (method?.toLowerCase()) {
      case 'getme':
        return ok(exchange, bot)
      case 'deletewebhook':
      case 'setmycommands':
        return ok(exchange, true)
      case 'getupdates':
        return ok(exchange, await this.#poll(Number(values['offset'] ?? 0), values['timeout']))
      case 'sendmessage': {
        if (!values['chat_id'] || !values['text']) {
          return fail(exchange, 400, 'Bad Request: message text is empty')
        }
        const chat = { id: Number(values['chat_id']), first_name: 'Alice', type: 'private' }
        const date = Math.floor(Date.now() / 1000)
        const text = values['text']
        return ok(exchange, { message_id: this.#nextId++, from: bot, chat, date, text })
      }
      default:
        return fail(exchange, 404, 'Not Found')
    }
  }

  /** `offset` confirms all before it; waits up to `timeout` seconds, at most 5, for the first. */
  async #poll(offset: number, timeout: unknown): Promise<Update[]> {
    this.#updates = this.#updates.filter((u) => u.update_id >= offset)
    if (this.#updates.length === 0 && Number(timeout) > 0) {
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(timer)
          this.#waiting.delete(wake)
          resolve()
        }
        const timer = setTimeout(wake, Math.min(Number(timeout), 5) * 1000)
        this.#waiting.add(wake)
      })
    }
    return this.#updates
  }
}

const ok = (exchange: Exchange, result: unknown) => json(exchange, { ok: true, result })
const fail = (exchange: Exchange, status: number, description: string) =>
  json(exchange, { ok: false, error_code: status, description }, status)
