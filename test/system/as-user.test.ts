/**
 * An ordinary user's words about a jail that runs: agentjail asks sudo by itself, as `run` does.
 * Judges: what the program prints and the jail's own end.
 */
import t from 'tap'
import { createLab } from '../lab/lab.js'

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 120_000
t.setTimeout(timeout)

t.test('status, logs, allow, deny, reload and stop as alice', { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  const home = '/home/alice/bot'
  const options = { user: 'alice', cwd: home, timeout: 30_000 } as const
  await lab.run(['mkdir', home], { user: 'alice' })
  lab.writeFile(`${home}/policy.yaml`, 'version: 1\nnetwork: { allow: [plain.example] }\n')
  await lab.run(['chown', 'alice:', `${home}/policy.yaml`])
  const script = 'curl -sS https://evil.example/; echo up; exec sleep 100'
  const jail = lab.spawnAgentjail(
    ['run', '-q', '-p', './policy.yaml', '-n', 'bot', '--', 'sh', '-c', script],
    { ...options, timeout },
  )
  await jail.until(/up/, 30_000)
  const ask = (...words: string[]) => lab.agentjail(words, options)
  const status = await ask('status', '--json')
  t.equal(status.code, 0, status.stderr)
  const [entry] = JSON.parse(status.stdout) as { name: string; since: string }[]
  t.equal(entry?.name, 'bot')
  const since = entry?.since ?? ''
  t.equal(new Date(since).toISOString(), since, 'a time as in the log')
  const denied = await ask('logs', 'bot', '--denied', '--json')
  t.match(denied.stdout, /evil\.example/, denied.stderr)
  t.match(await ask('allow', 'bot', 'shared-a.example'), { code: 0, stdout: /shared-a\.example/ })
  t.match(await ask('deny', 'bot', 'shared-a.example'), { code: 0 })
  t.match(await ask('reload', 'bot'), { code: 0, stdout: /in force/ })
  for (const words of [['stop'], ['deny'], ['reload'], ['logs'], ['allow']]) {
    const more = words[0] === 'deny' || words[0] === 'allow' ? ['a.example'] : []
    t.equal((await ask(...words, 'nobody', ...more)).code, 2, `${words.join(' ')} nobody`)
  }
  t.match(await ask('run', '--join', 'nobody', '--', 'true'), { code: 2 })
  t.match(await ask('stop', 'bot'), { code: 0, stdout: /stopped/ })
  await jail.ended
  t.match(await ask('account', 'list'), { code: 0, stdout: /aj-bot/ })
  // Who may not use sudo is told so, and nothing is done.
  await lab.run(['rm', '/etc/sudoers.d/alice'])
  const refused = await ask('status')
  t.match(refused, { code: 125, stderr: /sudo refused/ })
})
