/** The vendors' own clients, curl and git, unchanged, under the bundled policies. */
import { execFile, spawn } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import type { RequestListener } from 'node:http'
import path from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { resolveCredentials } from '../lib/credentials/resolve.js'
import { loadPolicy } from '../lib/policy/loader.js'
import { fillSlots } from '../lib/policy/slots.js'
import { openStage, type Stage, type StageOptions } from './http-stage.js'
import { slackSocket, vendors, words } from './http-vendors.js'
import { attackers, keys } from './vendor-keys.js'

const run = promisify(execFile)
const root = path.join(import.meta.dirname, '..', '..')
const clientsDir = path.join(root, 'test', 'clients')
if (!existsSync(path.join(clientsDir, 'node_modules'))) {
  throw new Error('the clients are not installed: run `npm ci --prefix test/clients`')
}

/** A stage under a bundled policy with its slots filled. */
async function underPolicy(name: string, more: Partial<StageOptions> = {}): Promise<Stage> {
  const policy = await loadPolicy(`bundle:${name}`)
  const caller = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, home: '/' }
  const credentials = await resolveCredentials(policy.credentials.values(), {
    callerEnv: keys,
    caller,
    isRootPolicy: true,
  })
  const filled = fillSlots(policy, new Set(credentials.map(({ id }) => id))).policy
  return await openStage({
    grants: filled.grants.map((each) => ({ ...each, ports: [{ first: 1, last: 65535 }] })),
    credentials,
    onRequest: vendors,
    ...more,
  })
}

async function runClient(stage: Stage, dir: string, name: string, env: Record<string, string>) {
  const ca = path.join(dir, 'ca.pem')
  writeFileSync(ca, stage.ca.pem)
  const { stdout } = await run(
    process.execPath,
    ['--import', path.join(clientsDir, 'redirect.mjs'), path.join(clientsDir, 'run.mjs'), name],
    {
      cwd: clientsDir,
      timeout: 60_000,
      env: { NODE_EXTRA_CA_CERTS: ca, GATE_PORT: String(stage.port), HOME: dir, ...env },
    },
  )
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as unknown
}

interface Case {
  readonly name: string
  readonly policy: string
  readonly token: string
  readonly attacker: string
  readonly want: object
}

const said = words.join('')
const telegram = {
  policy: 'telegram',
  token: keys.TELEGRAM_BOT_TOKEN,
  attacker: attackers.telegram,
}
const cases: Case[] = [
  {
    name: 'openai',
    policy: 'openai',
    token: keys.OPENAI_API_KEY,
    attacker: attackers.openai,
    want: {
      answer: said,
      tokens: words,
      models: ['gpt-x'],
      bad: '403',
      worse: '403',
      files: '403',
    },
  },
  {
    name: 'anthropic',
    policy: 'anthropic',
    token: keys.ANTHROPIC_API_KEY,
    attacker: attackers.anthropic,
    want: { answer: said, tokens: words, bad: '403' },
  },
  { name: 'telegraf', ...telegram, want: { updates: 1, sent: 'hello' } },
  { name: 'grammy', ...telegram, want: { updates: 1, sent: 'hello' } },
  {
    name: 'telegramBotApi',
    ...telegram,
    want: { updates: 1, sent: 'hello', bad: 'refused' },
  },
  {
    name: 'slack',
    policy: 'slack',
    token: keys.SLACK_BOT_TOKEN,
    attacker: attackers.slack,
    want: { who: 'bot', sent: '1.2', bad: 'refused' },
  },
  {
    name: 'slackSocket',
    policy: 'slack',
    token: keys.SLACK_BOT_TOKEN,
    attacker: attackers.slack,
    want: { text: 'over the socket' },
  },
  {
    name: 'octokit',
    policy: 'github',
    token: keys.GITHUB_TOKEN,
    attacker: attackers.github,
    want: { login: 'acme', issue: 7, bad: '403' },
  },
]

t.test("the vendors' clients", async (t) => {
  const onUpgrade = slackSocket(clientsDir)
  for (const { name, policy, token, attacker, want } of cases) {
    const stage = await underPolicy(policy, { onUpgrade })
    const got = await runClient(stage, t.testdir({}), name, {
      TOKEN: token,
      ATTACKER: attacker,
      APP_TOKEN: keys.SLACK_APP_TOKEN,
    }).catch((error: unknown) => error)
    t.match(got, want, name)
    const arrived = JSON.stringify(stage.seen)
    t.notMatch(arrived, attacker, `${name}: nothing under the attacker's key arrives`)
    t.notMatch(arrived, 'stolen')
    await stage.close()
  }
})

t.test('curl', async (t) => {
  const stage = await underPolicy('openai')
  const dir = t.testdir({ 'ca.pem': stage.ca.pem })
  const curl = async (...args: string[]) =>
    (
      await run('curl', [
        ...['--silent', '--show-error', '--max-time', '20', '--cacert', `${dir}/ca.pem`],
        ...['--connect-to', `::127.0.0.1:${String(stage.port)}`],
        ...['--write-out', '\n%{http_code} %{http_version}', ...args],
      ])
    ).stdout
      .split('\n')
      .at(-1)
  const url = 'https://api.openai.com/v1/models'
  const good = ['-H', `Authorization: Bearer ${keys.OPENAI_API_KEY}`]
  t.equal(await curl(...good, url), '200 2')
  t.equal(await curl('--http1.1', ...good, url), '200 1.1')
  t.equal(await curl(...good, '-H', 'Host: www.example.org', url), '421 2')
  t.equal(await curl(...good, '--path-as-is', `${url}/../files`), '403 2')
  t.equal(await curl('-H', 'Authorization: Bearer sk-proj-attack', url), '403 2')
  t.equal(await curl(...good, '-b', 'a=b', url), '403 2')
  await stage.close()
})

t.test('git clone and push over HTTPS', async (t) => {
  const dir = t.testdir({ served: {}, home: {} })
  const served = path.join(dir, 'served')
  mkdirSync(path.join(served, 'acme'))
  const repository = path.join(served, 'acme', 'repo.git')
  const bare = { PATH: process.env['PATH'] ?? '', HOME: path.join(dir, 'home') }
  await run('git', ['init', '--quiet', '--bare', '-b', 'main', repository], { env: bare })
  await run('git', ['-C', repository, 'config', 'http.receivepack', 'true'], { env: bare })
  const stage = await underPolicy('github', { ownPort: true, onRequest: httpBackend(served) })
  const ca = path.join(dir, 'ca.pem')
  writeFileSync(ca, stage.ca.pem)
  const port = String(stage.port)
  const git = async (password: string, ...args: string[]) =>
    await run(
      'git',
      [
        ...['-c', `http.curloptResolve=github.com:${port}:127.0.0.1`],
        ...['-c', 'user.name=a', '-c', 'user.email=a@example.com'],
        ...['-c', `credential.helper=!printf 'username=u\\npassword=${password}\\n' #`, ...args],
      ],
      {
        timeout: 60_000,
        cwd: dir,
        env: { ...bare, GIT_SSL_CAINFO: ca, GIT_TERMINAL_PROMPT: '0' },
      },
    ).then(
      () => 'done',
      (error: unknown) => (error as { stderr: string }).stderr,
    )
  const url = `https://github.com:${port}/acme/repo.git`
  const token = keys.GITHUB_TOKEN
  t.equal(await git(token, 'clone', '--quiet', url, 'work'), 'done')
  writeFileSync(path.join(dir, 'work', 'file'), 'x'.repeat(200_000))
  t.equal(await git(token, '-C', 'work', 'checkout', '--quiet', '-b', 'main'), 'done')
  t.equal(await git(token, '-C', 'work', 'add', '.'), 'done')
  t.equal(await git(token, '-C', 'work', 'commit', '--quiet', '-m', 'x'), 'done')
  t.match(
    await git(attackers.github, '-C', 'work', 'push', '--quiet', 'origin', 'main'),
    /403|[Aa]uthentication/,
  )
  t.equal(await git(token, '-C', 'work', 'push', '--quiet', 'origin', 'main'), 'done')
  t.equal(await git(token, 'clone', '--quiet', url, 'again'), 'done')
  t.ok(existsSync(path.join(dir, 'again', 'file')), 'what was pushed is there')
  t.match(await git(token, 'clone', `https://github.com:${port}/a/b/c/repo.git`, 'no'), /403/)
  await stage.close()
})

/** git's own CGI behind the origin. */
function httpBackend(root: string): RequestListener {
  return (request, response) => {
    const [pathInfo = '', query = ''] = (request.url ?? '').split('?')
    const child = spawn('git', ['http-backend'], {
      env: {
        PATH: process.env['PATH'],
        GIT_PROJECT_ROOT: root,
        GIT_HTTP_EXPORT_ALL: '1',
        REQUEST_METHOD: request.method,
        PATH_INFO: pathInfo,
        QUERY_STRING: query,
        CONTENT_TYPE: request.headers['content-type'] ?? '',
        HTTP_CONTENT_ENCODING: request.headers['content-encoding'] ?? '',
        CONTENT_LENGTH: request.headers['content-length'] ?? '',
        REMOTE_USER: 'u',
      },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    request.pipe(child.stdin)
    let out = Buffer.alloc(0)
    child.stdout.on('data', (chunk: Buffer) => {
      out = Buffer.concat([out, chunk])
    })
    child.on('close', () => {
      const split = out.indexOf('\r\n\r\n')
      const lines = out.subarray(0, split).toString().split('\r\n')
      const fields = lines.map((line) => line.split(': ') as [string, string])
      const status = fields.find(([name]) => name === 'Status')?.[1] ?? '200'
      response.writeHead(Number.parseInt(status, 10), Object.fromEntries(fields))
      response.end(out.subarray(split + 4))
    })
  }
}
