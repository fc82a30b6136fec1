/** The vendors' servers, as far as their clients ask here. Answers like the real ones, in shape. */
import type { IncomingMessage, RequestListener } from 'node:http'
import { createRequire } from 'node:module'
import type { Duplex } from 'node:stream'

export const words = ['One', ' token', ' at', ' a', ' time']

const json = (value: unknown) => ({ type: 'application/json', text: JSON.stringify(value) })
const events = (parts: readonly { event?: string; data: unknown }[]) => ({
  type: 'text/event-stream',
  text: parts
    .map(({ event, data }) => {
      const text = typeof data === 'string' ? data : JSON.stringify(data)
      return `${event === undefined ? '' : `event: ${event}\n`}data: ${text}\n\n`
    })
    .join(''),
})

/** By `host method path` without query; the body decides streaming. */
export const vendors: RequestListener = (request, response) => {
  let body = ''
  request.on('data', (chunk: Buffer) => {
    body += chunk.toString()
  })
  request.on('end', () => {
    const host = request.headers.host?.split(':')[0] ?? ''
    const { type, text } = vendorsAnswer(host, (request.url ?? '').split('?')[0] ?? '', body)
    response.writeHead(text === '' ? 404 : 200, {
      'content-type': type,
      // A cookie, as CDNs set: a client that keeps it must go on working.
      'set-cookie': 'cdn=1; path=/',
    })
    response.end(text)
  })
}

/** An empty text: there is nothing there. */
export function vendorsAnswer(
  host: string,
  path: string,
  body: string,
): { type: string; text: string } {
  const isStream = /"stream":\s*true/.test(body)
  switch (host) {
    case 'api.openai.com':
      return path === '/v1/models' ? json(models) : isStream ? chatStream() : json(chat)
    case 'api.anthropic.com':
      return isStream ? messageStream() : json(message([{ type: 'text', text: words.join('') }]))
    case 'api.telegram.org':
      return json({
        ok: true,
        result: path.endsWith('/getUpdates')
          ? [{ update_id: 1 }]
          : { message_id: 1, text: 'hello', chat: { id: 42 } },
      })
    case 'slack.com':
      return json(
        path.endsWith('/apps.connections.open')
          ? { ok: true, url: 'wss://wss-primary.slack.com/link/?ticket=t1&app_id=a1' }
          : { ok: true, user: 'bot', ts: '1.2' },
      )
    case 'api.github.com':
      return json(path === '/user' ? { login: 'acme' } : { number: 7 })
    default:
      return { type: 'text/plain', text: '' }
  }
}

const models = { object: 'list', data: [{ id: 'gpt-x', object: 'model' }] }
const chat = {
  id: 'c1',
  object: 'chat.completion',
  choices: [
    {
      index: 0,
      finish_reason: 'stop',
      message: { role: 'assistant', content: words.join('') },
    },
  ],
}

function chatStream() {
  const parts = words.map((content) => ({
    data: {
      id: 'c1',
      object: 'chat.completion.chunk',
      choices: [{ index: 0, delta: { content } }],
    },
  }))
  return events([...parts, { data: '[DONE]' }])
}

function message(content: unknown[]) {
  const usage = { input_tokens: 1, output_tokens: 1 }
  return { id: 'm1', type: 'message', role: 'assistant', model: 'm', content, usage }
}

function messageStream() {
  const named = (event: string, more: object) => ({ event, data: { type: event, ...more } })
  return events([
    named('message_start', { message: message([]) }),
    named('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
    ...words.map((text) =>
      named('content_block_delta', { index: 0, delta: { type: 'text_delta', text } }),
    ),
    named('content_block_stop', { index: 0 }),
    named('message_delta', {
      delta: { stop_reason: 'end_turn', stop_sequence: null },
      usage: { output_tokens: 5 },
    }),
    named('message_stop', {}),
  ])
}

interface WebSocketLike {
  send(text: string): void
}

/** Slack's Socket Mode: says hello, then one message. */
export function slackSocket(clientsDir: string) {
  const require = createRequire(`${clientsDir}/package.json`)
  const { WebSocketServer } = require('ws') as {
    WebSocketServer: new (options: { noServer: true }) => {
      handleUpgrade(
        request: IncomingMessage,
        socket: Duplex,
        head: Buffer,
        done: (webSocket: WebSocketLike) => void,
      ): void
    }
  }
  const server = new WebSocketServer({ noServer: true })
  return (request: IncomingMessage, socket: Duplex): void => {
    server.handleUpgrade(request, socket, Buffer.alloc(0), (webSocket) => {
      webSocket.send(JSON.stringify({ type: 'hello', num_connections: 1 }))
      const event = { type: 'message', text: 'over the socket' }
      const envelope = { type: 'events_api', envelope_id: 'e1', payload: { event } }
      webSocket.send(JSON.stringify(envelope))
    })
  }
}
