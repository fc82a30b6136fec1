/**
 * The vendors' own clients in jails of the lab, unchanged, under the bundled policies: with the credential slots filled
 * through the HTTP gate, with empty ones through the SNI gate, in both isolations.
 * Judges: what the clients print, and what the vendors' servers were asked.
 */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createLab, type Lab } from '../lab/lab.js'
import { root } from '../lab/paths.js'
import { attackers, keys } from '../vendor-keys.js'
import { isolations, type Isolation } from './faults-kit.js'

const clients = join(root, 'test/clients')
const cwd = '/srv/work'
const path = '/etc/agentjail/policies/clients.yaml'
const bundled = ['openai', 'anthropic', 'telegram', 'slack', 'github']
type Slot = 'filled' | 'empty'

interface Client {
  readonly name: string
  readonly token: string
  readonly attacker: string
  readonly want: object
  /** Of what the policy refuses: what the client sees where it does. */
  readonly refused: object
  /** And where nothing looks into TLS: the vendor's own answer. */
  readonly passed: object
}

const said = 'You said: hi'
const telegram = {
  token: keys.TELEGRAM_BOT_TOKEN,
  attacker: attackers.telegram,
  want: { updates: 1, sent: 'hello' },
  // Each of the libraries has words of its own.
  refused: { bad: /^(?!passed$)/ },
  passed: { bad: 'passed' },
}
const programs: readonly Client[] = [
  {
    name: 'openai',
    token: keys.OPENAI_API_KEY,
    attacker: attackers.openai,
    want: { answer: said, tokens: ['', 'You ', 'said: ', 'hi'], models: ['gpt-4o-mini'] },
    refused: { bad: '403', worse: '403', files: '403' },
    passed: { bad: 'passed', worse: 'passed', files: '404' },
  },
  {
    name: 'anthropic',
    token: keys.ANTHROPIC_API_KEY,
    attacker: attackers.anthropic,
    want: { answer: 'Hello from the lab.', tokens: ['One', ' token', ' at', ' a', ' time'] },
    refused: { bad: '403' },
    passed: { bad: 'passed' },
  },
  { name: 'telegraf', ...telegram },
  { name: 'grammy', ...telegram },
  { name: 'telegramBotApi', ...telegram },
  {
    name: 'slack',
    token: keys.SLACK_BOT_TOKEN,
    attacker: attackers.slack,
    want: { who: 'lab', sent: '1.000100' },
    refused: { bad: 'refused' },
    passed: { bad: 'passed' },
  },
  {
    name: 'slackSocket',
    token: keys.SLACK_BOT_TOKEN,
    attacker: attackers.slack,
    want: { text: 'over the socket' },
    refused: {},
    passed: {},
  },
  {
    name: 'octokit',
    token: keys.GITHUB_TOKEN,
    attacker: attackers.github,
    want: { login: 'acme', issue: 7 },
    refused: { bad: '403' },
    passed: { bad: 'passed' },
  },
]

/** A path of each vendor that its clients do not need, under the right key: the vendor has nothing there. */
const elsewhere: readonly [vendor: string, args: string][] = [
  ['openai', `-H 'Authorization: Bearer ${keys.OPENAI_API_KEY}' https://api.openai.com/v1/files`],
  ['anthropic', `-H 'x-api-key: ${keys.ANTHROPIC_API_KEY}' https://api.anthropic.com/v1/files`],
  ['telegram', `https://api.telegram.org/other/bot${keys.TELEGRAM_BOT_TOKEN}/getMe`],
  ['slack', `-H 'Authorization: Bearer ${keys.SLACK_BOT_TOKEN}' https://slack.com/admin`],
  ['github', `-u 'u:${keys.GITHUB_TOKEN}' https://github.com/settings/tokens`],
]

const policy = (more = '') => `version: 1
name: clients
extends: [${bundled.join(', ')}]
fs: { read: [${clients}${more}] }
`
/** Where a site's own certificate arrives: the lab's authority must be told to Node, as a company's would. */
const trust = 'NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt '

const run = (lab: Lab, isolation: Isolation, slot: Slot, script: string) =>
  lab.agentjail(['run', '-q', '--isolation', isolation, '-p', path, '--', 'sh', '-c', script], {
    cwd,
    env: slot === 'filled' ? keys : {},
    timeout: 120_000,
  })

const all = async (t: Test, lab: Lab, isolation: Isolation, slot: Slot) => {
  lab.writeFile(path, policy())
  const served = lab.internet.served.length
  const calls = programs.map(
    ({ name, token, attacker }) =>
      `${slot === 'empty' || name === 'slackSocket' ? trust : ''}TOKEN='${token}' ATTACKER='${attacker}' APP_TOKEN='${keys.SLACK_APP_TOKEN}' node ${clients}/run.mjs ${name} || echo '{"failed":true}'`,
  )
  const asks = elsewhere.map(
    ([, args]) =>
      `curl -sS -o /dev/null -m 10 -w '%{http_code} %header{x-agentjail-denied}\\n' ${args}`,
  )
  const { code, stdout, stderr } = await run(lab, isolation, slot, [...calls, ...asks].join('\n'))
  t.equal(code, 0, stderr)
  const lines = stdout.trim().split('\n')
  for (const [at, { name, want, refused, passed }] of programs.entries()) {
    const got = JSON.parse(lines[at] ?? '{}') as object
    t.match(got, want, `${name}: ${lines[at]} ${stderr}`)
    t.match(got, slot === 'filled' ? refused : passed, `${name}: what is not granted`)
  }
  for (const [at, [vendor]] of elsewhere.entries()) {
    const got = lines[programs.length + at] ?? ''
    if (slot === 'filled') t.equal(got, '403 path-not-granted', `${vendor}: another path`)
    else t.notMatch(got, /403|-/, `${vendor}: another path is the vendor's to refuse`)
  }
  await lab.sync()
  const asked = JSON.stringify(lab.internet.served.slice(served))
  for (const [vendor, attacker] of Object.entries(attackers)) {
    const arrived = asked.includes(attacker)
    t.equal(arrived, slot === 'empty', `${vendor}: what came under the attacker's key`)
  }
}

/** Go's net/http, over HTTP/2, with the roots that the jail's environment names. Needs golang-go, in the long version only. */
const go = async (t: Test, lab: Lab, isolation: Isolation, slot: Slot) => {
  const program = join(t.testdir({}), 'client')
  const source = join(root, 'test/fixtures/client.go')
  execFileSync('go', ['build', '-o', program, source], {
    env: { ...process.env, CGO_ENABLED: '0' },
  })
  lab.writeFile(path, policy(`, ${program}`))
  const script = [keys.OPENAI_API_KEY, attackers.openai]
    .map((key) => `${program} https://api.openai.com/v1/models '${key}'`)
    .join('\n')
  const { stdout, stderr } = await run(lab, isolation, slot, script)
  const [right, other] = stdout.trim().split('\n')
  t.match(right, /^200 HTTP\/\S+ .*gpt-4o-mini/, `Go's net/http: ${stdout} ${stderr}`)
  t.match(other, slot === 'filled' ? /^403 / : /^200 /, "with the attacker's key")
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 300_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile('/srv/work/README', 'a workspace\n')
    await lab.internet.pushTelegram('hello')
    for (const slot of ['filled', 'empty'] as const) {
      await t.test(`slots ${slot}`, { timeout }, (t) => all(t, lab, isolation, slot))
      if (process.env['AGENTJAIL_GO'] !== undefined)
        await t.test(`slots ${slot}, Go`, { timeout }, (t) => go(t, lab, isolation, slot))
    }
  })
}
