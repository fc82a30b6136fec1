#!/usr/bin/env node
/**
 * Runs examples/bot under `agentjail run --policy openai-telegram`.
 *
 *   node examples/run-bot.mjs         on the internet, with OPENAI_API_KEY and TELEGRAM_BOT_TOKEN set
 *   node examples/run-bot.mjs --lab   the same bot against a private test internet; no keys needed
 *
 * Options: --isolation namespace|uid. Needs `npm run build`, and root (or sudo).
 */
import { spawnSync } from 'node:child_process'
import { lookup } from 'node:dns/promises'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const examples = dirname(fileURLToPath(import.meta.url))
const botDir = join(examples, 'bot')
const dist = join(examples, '../dist')
const agentjail = join(dist, 'bin/agentjail.cjs')

const { values } = parseArgs({
  options: { lab: { type: 'boolean', default: false }, isolation: { type: 'string' } },
})

const stop = (text) => {
  process.stderr.write(`run-bot: ${text}\n`)
  process.exit(1)
}

const prepare = () => {
  if (!existsSync(agentjail)) stop('not built yet: npm ci && npm run build')
  if (existsSync(join(botDir, 'node_modules'))) return
  const done = spawnSync('npm', ['ci', '--no-audit', '--no-fund'], {
    cwd: botDir,
    stdio: 'inherit',
  })
  if (done.status !== 0) stop(`npm ci in ${botDir} failed`)
}

const jailArgs = (policies) => [
  'run',
  ...policies.flatMap((policy) => ['--policy', policy]),
  ...(values.isolation === undefined ? [] : ['--isolation', values.isolation]),
  '--',
  ...['node', 'bot.js', '--once'],
]

const onTheInternet = async () => {
  for (const name of ['OPENAI_API_KEY', 'TELEGRAM_BOT_TOKEN']) {
    if (!process.env[name])
      stop(`${name} is not set; without keys: node examples/run-bot.mjs --lab`)
  }
  try {
    await lookup('api.telegram.org')
  } catch {
    stop('no internet here: api.telegram.org has no address; try: node examples/run-bot.mjs --lab')
  }
  const options = { cwd: botDir, stdio: 'inherit' }
  const setup = spawnSync(process.execPath, [agentjail, 'setup'], options)
  if (setup.status !== 0) return setup.status
  process.stderr.write('write to your bot on Telegram; it answers once\n')
  return spawnSync(process.execPath, [agentjail, ...jailArgs(['openai-telegram'])], options).status
}

/** A Node has roots of its own; this adds those of the (test) system, as any private CA would need. */
const testCa = `version: 1
name: test-internet
env:
  set:
    NODE_EXTRA_CA_CERTS: /etc/ssl/certs/ca-certificates.crt
`

const inTheLab = async () => {
  if (process.getuid() !== 0) stop('--lab needs root: sudo node examples/run-bot.mjs --lab')
  // Packages alone: the lab's host has accounts, settings and rules of its own, and this machine keeps none of them.
  const { openSetup } = await import(join(dist, 'lib/session/context.js'))
  const [packages] = await openSetup()
  if (!(await packages.isDone())) await packages.apply()
  const { createLab } = await import(join(dist, 'test/lab/lab.js'))
  const lab = await createLab()
  try {
    const extra = '/etc/agentjail/policies/test-internet.yaml'
    lab.writeFile(extra, testCa)
    await lab.internet.pushTelegram('What holds you?')
    const result = await lab.agentjail(jailArgs(['openai-telegram', extra]), {
      cwd: botDir,
      timeout: 60_000,
      env: { OPENAI_API_KEY: 'sk-lab-0000', TELEGRAM_BOT_TOKEN: '4242:lab-token' },
    })
    process.stdout.write(result.stdout)
    process.stderr.write(result.stderr)
    await lab.sync()
    for (const { service, method, url, status } of lab.internet.served) {
      console.log(`${service}: ${method} ${url.replace(/\/bot[^/]+/, '/bot<token>')} ${status}`)
    }
    const served = (service, path) =>
      lab.internet.servedBy(service).some((s) => s.url.includes(path) && s.status === 200)
    const complete = served('openai', '/v1/chat/completions') && served('telegram', '/sendMessage')
    console.log(complete ? 'the bot answered' : 'the bot did not answer')
    return complete ? result.code : 1
  } finally {
    await lab.close()
  }
}

prepare()
process.exitCode = (await (values.lab ? inTheLab() : onTheInternet())) ?? 1
