/** The lesser services: Anthropic, Slack, and a plain page. */
import { json, parseObject, type Handler } from './http.js'

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
  if (call === 'chat.postMessage') return json(exchange, { ok: true, ts: '1.000100' })
  json(exchange, { ok: false, error: 'unknown_method' })
}

/** Says which address and name it was reached by. */
export const plain: Handler = ({ request, response, url }) => {
  response.writeHead(200, { 'content-type': 'text/plain' })
  const local = request.socket.localAddress?.replace('::ffff:', '')
  response.end(`host ${request.headers.host} address ${local} path ${url.pathname}\n`)
}
