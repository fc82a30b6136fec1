/**
 * Many jails at once: five policies, each jail checks what it may and may not reach; the capture agrees; nothing is left.
 * The elapsed time is printed beside the same number one after another, and asserted nowhere.
 */
import t from 'tap'
import { evil } from '../lab/addresses.js'
import { jailLine } from '../lab/firewall.js'
import { createLab } from '../lab/lab.js'

/** Jails in each isolation; each is a warden, a gate and a command. */
const count = Number(process.env['AGENTJAIL_MANY'] ?? 100)
/** So many are really started one after another; the time of `count` is counted up from them. */
const few = Math.min(count, Number(process.env['AGENTJAIL_SEQUENTIAL'] ?? 5))
const names = [
  'api.openai.com',
  'api.telegram.org',
  'api.anthropic.com',
  'slack.com',
  'github.com',
] as const

const probe = (granted: string, others: readonly string[]): string =>
  [
    `curl -sS -o /dev/null -m 60 https://${granted}/ && echo yes:${granted}`,
    ...others.map(
      (name) => `curl -sS -o /dev/null -m 60 https://${name}/ 2>/dev/null && echo yes:${name}`,
    ),
    `curl -sS -o /dev/null -m 60 https://${evil.v4}/ 2>/dev/null && echo yes:evil`,
    'true',
  ].join('\n')

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 800_000
t.setTimeout(2 * timeout)
for (const isolation of ['namespace', 'uid'] as const) {
  await t.test(`${count} jails at once, ${isolation}`, { timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    for (const name of names) {
      lab.writeFile(
        `/etc/agentjail/policies/${name}.yaml`,
        `version: 1\nname: many\nnetwork: { allow: [${name}] }\n`,
      )
    }
    await lab.remember()
    const run = (index: number) => {
      const granted = names[index % names.length] ?? names[0]
      const others = names.filter((name) => name !== granted)
      const policy = `/etc/agentjail/policies/${granted}.yaml`
      const args = ['run', '-q', '-p', policy, '-n', `many-${index}`, '--isolation', isolation]
      return lab
        .agentjail([...args, '--', 'sh', '-c', probe(granted, others)], {
          timeout: 280_000,
          cwd: '/srv',
        })
        .then((result) => ({ granted, result }))
    }
    const began = performance.now()
    const results = await Promise.all(Array.from({ length: count }, (_, index) => run(index)))
    const together = performance.now() - began
    for (const { granted, result } of results) {
      t.equal(result.code, 0, result.stderr)
      t.equal(result.stdout, `yes:${granted}\n`, 'what it may, and nothing else')
    }
    await lab.sync()
    t.strictSame(await lab.capture.packets((p) => p.dst === evil.v4), [], 'nothing to the attacker')

    const beganOne = performance.now()
    for (let index = 0; index < few; index++) await run(index)
    const sequential = performance.now() - beganOne
    const all = Math.round((sequential / few) * count)
    t.comment(
      `${count} at once: ${Math.round(together)} ms; one after another: ${all} ms` +
        (few === count ? '' : `, counted up from ${few}`),
    )

    const { stdout } = await lab.run(['ls', '/run/agentjail/jails'])
    t.equal(stdout, '', 'the registry is empty')
    t.notMatch(await lab.rules(), jailLine, 'no rule is left')
    const { stdout: alive } = await lab.run([
      'sh',
      '-c',
      'ps -eo uid= | awk "\\$1 >= 1900000000" | wc -l',
    ])
    t.equal(alive.trim(), '0', 'no process of a jail is left')
  })
}
