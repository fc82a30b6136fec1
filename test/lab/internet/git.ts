/** github.com: git's own smart HTTP server behind a CGI bridge (RFC 3875), one repository, open to pushes. */
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { json, type Handler } from './http.js'
import { answerAs } from './others.js'

const repositories = '/run/lab/git'

const ensureRepository = (): void => {
  const bare = join(repositories, 'acme/demo.git')
  if (existsSync(bare)) return
  mkdirSync(bare, { recursive: true })
  const git = (args: readonly string[], input = '') =>
    execFileSync('/usr/bin/git', ['-C', bare, ...args], { input, encoding: 'utf8' }).trim()
  git(['init', '--quiet', '--bare', '--initial-branch=main'])
  git(['config', 'http.receivepack', 'true'])
  const blob = git(['hash-object', '-w', '--stdin'], 'A repository of the lab.\n')
  const tree = git(['mktree'], `100644 blob ${blob}\tREADME\n`)
  const author = ['-c', 'user.name=Lab', '-c', 'user.email=lab@lab.example']
  const commit = git([...author, 'commit-tree', '-m', 'Begin', tree])
  git(['update-ref', 'refs/heads/main', commit])
}

export const github: Handler = (exchange) => {
  const { request, response, method, url, body } = exchange
  if (request.headers.host === 'api.github.com') return answerAs(exchange, 'api.github.com')
  if (!url.pathname.startsWith('/acme/')) return json(exchange, { message: 'Not Found' }, 404)
  ensureRepository()
  const cgi = spawn('/usr/lib/git-core/git-http-backend', {
    env: {
      PATH: '/usr/bin:/bin',
      GIT_PROJECT_ROOT: repositories,
      GIT_HTTP_EXPORT_ALL: '1',
      REQUEST_METHOD: method,
      PATH_INFO: url.pathname,
      QUERY_STRING: url.search.slice(1),
      CONTENT_TYPE: request.headers['content-type'] ?? '',
      CONTENT_LENGTH: String(body.length),
      HTTP_CONTENT_ENCODING: request.headers['content-encoding'] ?? '',
      GIT_PROTOCOL: String(request.headers['git-protocol'] ?? ''),
      REMOTE_USER: 'lab',
      REMOTE_ADDR: request.socket.remoteAddress ?? '',
    },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const chunks: Buffer[] = []
  cgi.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
  cgi.stdin.on('error', () => undefined)
  cgi.stdin.end(body)
  return new Promise<void>((resolve) => {
    cgi.on('close', () => {
      const output = Buffer.concat(chunks)
      const end = output.indexOf('\r\n\r\n')
      for (const line of output.toString('latin1', 0, Math.max(end, 0)).split('\r\n')) {
        const [, name, value] = /^([\w-]+): (.*)$/.exec(line) ?? []
        if (name === 'Status') response.statusCode = Number.parseInt(value ?? '', 10)
        else if (name !== undefined) response.setHeader(name, value ?? '')
      }
      if (end < 0) response.statusCode = 500
      response.end(output.subarray(end + 4))
      resolve()
    })
  })
}
