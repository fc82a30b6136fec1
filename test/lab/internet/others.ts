/** The lesser services: Anthropic, Slack, and a plain page. */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { join } from 'node:path'
import { slackSocket, vendorsAnswer } from '../../http-vendors.js'
import { root } from '../paths.js'
import { json, parseObject, type Exchange, type Handler } from './http.js'

/** As the vendor's client expects it. */
export const answerAs = ({ response, url, body }: Exchange, host: string): void => {
  const { type, text } = vendorsAnswer(host, url.pathname, body.toString())
  response.writeHead(text === '' ? 404 : 200, { 'content-type': type })
  response.end(text)
}

export const anthropic: Handler = (exchange) => {
  const { request, method, url, body } = exchange
  if (!request.headers['x-api-key'] && !request.headers.authorization) {
    const error = { type: 'authentication_error', message: 'x-api-key header is required' }
    return json(exchange, { type: 'error', error }, 401)
  }
  if (method !== 'POST' || url.pathname !== '/v1/messages') {
    return json(
      exchange,
      { type: 'error', error: { type: 'not_found_error', message: 'Not Found' } },
      404,
    )
  }
  if (parseObject(body)?.['stream'] === true) return answerAs(exchange, 'api.anthropic.com')
  json(exchange, {
    id: 'msg_lab',
    type: 'message',
    role: 'assistant',
    model: parseObject(body)?.['model'],
    content: [{ type: 'text', text: 'Hello from the lab.' }],
    stop_reason: 'end_turn',
    stop_sequence: null,
    usage: { input_tokens: 10, output_tokens: 6 },
  })
}

export const slack: Handler = (exchange) => {
  const call = exchange.url.pathname.replace('/api/', '')
  if (call === 'api.test') return json(exchange, { ok: true })
  if (!exchange.request.headers.authorization) {
    return json(exchange, { ok: false, error: 'not_authed' })
  }
  if (call === 'auth.test') return json(exchange, { ok: true, user: 'lab', team: 'lab' })
  if (call === 'apps.connections.open') return answerAs(exchange, 'slack.com')
  if (call === 'chat.postMessage') return json(exchange, { ok: true, ts: '1.000100' })
  json(exchange, { ok: false, error: 'unknown_method' })
}

let openSocket: ReturnType<typeof slackSocket> | undefined

/** The one WebSocket of the lab: Slack's Socket Mode. */
export const upgrade = (request: IncomingMessage, socket: Duplex): void => {
  if (request.headers.host !== 'wss-primary.slack.com') {
    socket.destroy()
    return
  }
  openSocket ??= slackSocket(join(root, 'test/clients'))
  openSocket(request, socket)
}

/** Says which address and name it was reached by. */
export const plain: Handler = ({ request, response, url }) => {
  response.writeHead(200, { 'content-type': 'text/plain' })
  const local = request.socket.localAddress?.replace('::ffff:', '')
  response.end(`host ${request.headers.host} address ${local} path ${url.pathname}\n`)
}
