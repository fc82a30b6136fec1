/**
 * Answers each Telegram message with a chat completion.
 * Needs TELEGRAM_BOT_TOKEN and OPENAI_API_KEY; OPENAI_MODEL is optional. `--once` ends after one answer.
 */
import OpenAI from 'openai'
import { Telegraf } from 'telegraf'
import { message } from 'telegraf/filters'

const need = (name) => {
  const value = process.env[name]
  if (!value) throw new Error(`${name} is not set`)
  return value
}

const openai = new OpenAI({ apiKey: need('OPENAI_API_KEY') })
const bot = new Telegraf(need('TELEGRAM_BOT_TOKEN'))
const model = process.env.OPENAI_MODEL ?? 'gpt-4o-mini'
const once = process.argv.includes('--once')

bot.on(message('text'), async (context) => {
  const question = context.message.text
  const completion = await openai.chat.completions.create({
    model,
    messages: [{ role: 'user', content: question }],
  })
  const answer = completion.choices[0]?.message.content ?? 'No answer.'
  await context.reply(answer)
  console.log(`asked: ${question}\nanswered: ${answer}`)
  // After this update is done, so that its offset is confirmed to Telegram.
  if (once) setImmediate(() => bot.stop('answered'))
})
bot.catch((error) => {
  console.error(error)
  process.exitCode = 1
  bot.stop('failed')
})

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => bot.stop(signal))
await bot.launch(() => console.log(`@${bot.botInfo?.username} listens`))
