/** api.openai.com: models and chat completions, whole and streamed, with the errors its clients know. */
import { json, parseObject, type Exchange, type Handler } from './http.js'

const model = 'gpt-4o-mini'

const fail = (exchange: Exchange, status: number, message: string, code: string | null) =>
  json(exchange, { error: { message, type: 'invalid_request_error', param: null, code } }, status)

/** What the model answers: the last user message, so that a test sees its own words come back. */
const answerTo = (messages: unknown): string => {
  const last = Array.isArray(messages)
    ? (messages.at(-1) as { content?: unknown }).content
    : undefined
  return `You said: ${typeof last === 'string' ? last : JSON.stringify(last)}`
}

export const openai: Handler = (exchange) => {
  const { request, method, url } = exchange
  if (!/^Bearer \S+$/.test(request.headers.authorization ?? '')) {
    return fail(exchange, 401, "You didn't provide an API key.", 'invalid_api_key')
  }
  if (method === 'GET' && url.pathname === '/v1/models') {
    const data = [{ id: model, object: 'model', created: 1721172741, owned_by: 'system' }]
    return json(exchange, { object: 'list', data })
  }
  if (method === 'POST' && url.pathname === '/v1/chat/completions') return complete(exchange)
  return fail(exchange, 404, `Invalid URL (${method} ${url.pathname})`, null)
}

const complete = (exchange: Exchange): void => {
  const body = parseObject(exchange.body)
  if (body === undefined) return fail(exchange, 400, 'We could not parse the JSON body.', null)
  if (typeof body['model'] !== 'string') {
    return fail(exchange, 400, 'you must provide a model parameter', null)
  }
  const content = answerTo(body['messages'])
  const base = { id: 'chatcmpl-lab', created: Math.floor(Date.now() / 1000), model: body['model'] }
  if (body['stream'] === true) return stream(exchange, base, content)
  json(exchange, {
    ...base,
    object: 'chat.completion',
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content, refusal: null },
        logprobs: null,
        finish_reason: 'stop',
      },
    ],
    usage: { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 },
  })
}

/** Server-sent events, ended by `[DONE]`. */
const stream = ({ response }: Exchange, base: object, content: string): void => {
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  const send = (delta: object, finish: string | null) => {
    const choices = [{ index: 0, delta, logprobs: null, finish_reason: finish }]
    const chunk = { ...base, object: 'chat.completion.chunk', choices }
    response.write(`data: ${JSON.stringify(chunk)}\n\n`)
  }
  send({ role: 'assistant', content: '' }, null)
  for (const word of content.split(/(?<= )/)) send({ content: word }, null)
  send({}, 'stop')
  response.end('data: [DONE]\n\n')
}
