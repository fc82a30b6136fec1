/** Runs one vendor's client the usual way and prints what it got as one line of JSON. */
const token = process.env.TOKEN
const attacker = process.env.ATTACKER

/** What a client reports of a refused call. */
async function refused(call) {
  try {
    await call()
    return 'passed'
  } catch (error) {
    return String(error.status ?? error.code ?? error.error_code ?? error.message)
  }
}

const clients = {
  async openai() {
    const { default: OpenAI } = await import('openai')
    const ask = { model: 'gpt-x', messages: [{ role: 'user', content: 'hi' }] }
    const client = new OpenAI({ apiKey: token })
    const answer = await client.chat.completions.create(ask)
    const tokens = []
    for await (const part of await client.chat.completions.create({ ...ask, stream: true })) {
      tokens.push(part.choices[0].delta.content)
    }
    const models = []
    for await (const model of client.models.list()) models.push(model.id)
    const other = new OpenAI({ apiKey: attacker, maxRetries: 0 })
    const bad = await refused(() => other.chat.completions.create(ask))
    const organization = new OpenAI({ apiKey: token, organization: 'org-evil', maxRetries: 0 })
    const worse = await refused(() => organization.chat.completions.create(ask))
    const files = await refused(() => client.fineTuning.jobs.list())
    return { answer: answer.choices[0].message.content, tokens, models, bad, worse, files }
  },
  async anthropic() {
    const { default: Anthropic } = await import('@anthropic-ai/sdk')
    const ask = { model: 'm', max_tokens: 9, messages: [{ role: 'user', content: 'hi' }] }
    const client = new Anthropic({ apiKey: token })
    const answer = await client.messages.create(ask)
    const tokens = []
    const stream = client.messages.stream(ask).on('text', (text) => tokens.push(text))
    await stream.finalMessage()
    const other = new Anthropic({ apiKey: attacker, maxRetries: 0 })
    const bad = await refused(() => other.messages.create(ask))
    return { answer: answer.content[0].text, tokens, bad }
  },
  async telegraf() {
    const { Telegram } = await import('telegraf')
    const bot = new Telegram(token)
    const updates = await bot.callApi('getUpdates', {})
    const sent = await bot.sendMessage(42, 'hello')
    const bad = await refused(() => new Telegram(attacker).sendMessage(42, 'stolen'))
    return { updates: updates.length, sent: sent.text, bad }
  },
  async grammy() {
    const { Bot } = await import('grammy')
    const updates = await new Bot(token).api.getUpdates()
    const sent = await new Bot(token).api.sendMessage(42, 'hello')
    const bad = await refused(() => new Bot(attacker).api.sendMessage(42, 'stolen'))
    return { updates: updates.length, sent: sent.text, bad }
  },
  async telegramBotApi() {
    const module = await import('node-telegram-bot-api')
    const TelegramBot = module.default ?? module.TelegramBot
    const updates = await new TelegramBot(token).getUpdates()
    const sent = await new TelegramBot(token).sendMessage(42, 'hello')
    const bad = await refused(() => new TelegramBot(attacker).sendMessage(42, 'stolen'))
    return { updates: updates.length, sent: sent.text, bad: bad === 'passed' ? bad : 'refused' }
  },
  async slack() {
    const { WebClient, LogLevel } = await import('@slack/web-api')
    const quiet = { logLevel: LogLevel.ERROR, retryConfig: { retries: 0 } }
    const client = new WebClient(token, quiet)
    const who = await client.auth.test()
    const sent = await client.chat.postMessage({ channel: 'C1', text: 'hello' })
    const other = new WebClient(attacker, quiet)
    const bad = await refused(() => other.chat.postMessage({ channel: 'C1', text: 'stolen' }))
    return { who: who.user, sent: sent.ts, bad: bad === 'passed' ? bad : 'refused' }
  },
  async slackSocket() {
    const { SocketModeClient, LogLevel } = await import('@slack/socket-mode')
    const client = new SocketModeClient({
      appToken: process.env.APP_TOKEN,
      logLevel: LogLevel.ERROR,
    })
    const message = new Promise((resolve) => client.on('message', resolve))
    await client.start()
    const { body, ack } = await message
    await ack()
    await client.disconnect()
    return { text: body.event.text }
  },
  async octokit() {
    const { Octokit } = await import('octokit')
    const client = new Octokit({ auth: token })
    const { data } = await client.rest.users.getAuthenticated()
    const issue = await client.rest.issues.create({ owner: 'acme', repo: 'x', title: 't' })
    const other = new Octokit({ auth: attacker, retry: { enabled: false } })
    const bad = await refused(() =>
      other.rest.issues.create({ owner: 'acme', repo: 'x', title: 'stolen' }),
    )
    return { login: data.login, issue: issue.data.number, bad }
  },
}

const result = await clients[process.argv[2]]()
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))
