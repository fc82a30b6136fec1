/** The lesser services: Anthropic, Slack, an npm registry of one package, and a plain page. */
import { createHash } from 'node:crypto'
import { gzipSync } from 'node:zlib'
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

/** One file of a ustar archive (POSIX.1-2017, pax "ustar Interchange Format"). */
const tarFile = (name: string, content: string): Buffer => {
  const header = Buffer.alloc(512)
  header.write(name, 0)
  header.write('0000644\0', 100)
  header.write('0000000\0', 108)
  header.write('0000000\0', 116)
  header.write(content.length.toString(8).padStart(11, '0') + '\0', 124)
  header.write('00000000000\0', 136)
  header.write('        ', 148)
  header.write('0', 156)
  header.write('ustar\x0000', 257)
  const sum = header.reduce((total, byte) => total + byte, 0)
  header.write(sum.toString(8).padStart(6, '0') + '\0 ', 148)
  const padding = Buffer.alloc((512 - (content.length % 512)) % 512)
  return Buffer.concat([header, Buffer.from(content), padding])
}

const manifest = { name: 'lab-package', version: '1.0.0', main: 'index.js', license: 'MIT' }
const tarball = gzipSync(
  Buffer.concat([
    tarFile('package/package.json', JSON.stringify(manifest)),
    tarFile('package/index.js', "module.exports = 'from the lab'\n"),
    Buffer.alloc(1024),
  ]),
)

export const npm: Handler = (exchange) => {
  const { response, url } = exchange
  if (url.pathname === '/lab-package/-/lab-package-1.0.0.tgz') {
    response.writeHead(200, { 'content-type': 'application/octet-stream' })
    return void response.end(tarball)
  }
  if (url.pathname !== '/lab-package') return json(exchange, { error: 'Not found' }, 404)
  const integrity = `sha512-${createHash('sha512').update(tarball).digest('base64')}`
  const dist = {
    tarball: `https://${exchange.request.headers.host}/lab-package/-/lab-package-1.0.0.tgz`,
    integrity,
    shasum: createHash('sha1').update(tarball).digest('hex'),
  }
  json(exchange, {
    name: manifest.name,
    'dist-tags': { latest: manifest.version },
    versions: { [manifest.version]: { ...manifest, dist } },
  })
}

/** Says which address and name it was reached by. */
export const plain: Handler = ({ request, response, url }) => {
  response.writeHead(200, { 'content-type': 'text/plain' })
  const local = request.socket.localAddress?.replace('::ffff:', '')
  response.end(`host ${request.headers.host} address ${local} path ${url.pathname}\n`)
}
