/**
 * A new user: a script that needs three hosts, an empty policy, and nothing to go by but what is printed.
 * The session is what docs/first-jail.md and the README show; AGENTJAIL_WRITE_DOCS=1 writes it there anew.
 * Judges: the script's own output, and the text of the two files.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createLab } from '../lab/lab.js'

const script = `#!/bin/sh -e
curl -sS https://plain.example/news
curl -sS https://shared-a.example/
curl -sS http://mutable.example:8088/
`

const files = ['docs/first-jail.md', 'README.md'].map((name) => join(process.cwd(), name))
const begin = '<!-- session: written by test/system/first-run.test.ts -->\n\n```\n'
const end = '```\n'

const between = (text: string) => text.split(begin)[1]?.split(end)[0] ?? ''
/** What differs from run to run: numbers, the address that answered, and whether the process was still known. */
const alike = (text: string) =>
  text
    .replace(/ by [^\n]*, pid \d+/g, '')
    .replace(/address \S+/g, 'address')
    .replace(/\d+/g, '0')

t.test('from an empty policy to a working one', { timeout: 240_000 }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile(
    '/usr/local/bin/agentjail',
    `#!/bin/sh\nexec node '${join(process.cwd(), 'dist/bin/agentjail.cjs')}' "$@"\n`,
    0o755,
  )
  // An address of its own: the one it has is another name's too.
  await lab.dns.set('mutable.example', 'AAAA', [])
  await lab.dns.set('mutable.example', 'A', ['198.51.100.40'])
  const home = '/home/alice/bot'
  const options = { user: 'alice', cwd: home, timeout: 60_000 } as const
  await lab.run(['mkdir', home], { user: 'alice' })
  await lab.run(['sh', '-c', 'cat > job.sh; chmod +x job.sh; echo "version: 1" > policy.yaml'], {
    ...options,
    input: script,
  })
  let session = ''
  /** Standard error is shown after standard output, and the line breaks of a shell are added. */
  const type = async (line: string) => {
    const { code, stdout, stderr } = await lab.run(['sh', '-c', line], options)
    session += `$ ${line}\n${stdout}${stderr}`
    return { code, stdout, stderr }
  }
  await type('cat job.sh policy.yaml')
  const run = 'agentjail run -p ./policy.yaml -- ./job.sh'
  let result = await type(run)
  for (let round = 0; round < 6 && result.code !== 0; round++) {
    const told = /^ {2}or run: (agentjail allow .*)$/m.exec(result.stderr)?.[1]
    if (told === undefined) break
    t.equal((await type(told)).code, 0, told)
    result = await type(run)
  }
  t.equal(result.code, 0, session)
  for (const name of ['plain', 'shared-a', 'mutable'])
    t.match(result.stdout, `host ${name}.example`)
  await type('cat policy.yaml')

  for (const file of files) {
    const text = readFileSync(file, 'utf8')
    if (process.env['AGENTJAIL_WRITE_DOCS'] === '1') {
      writeFileSync(
        file,
        text.replace(between(text), () => session),
      )
    }
    t.equal(
      alike(between(readFileSync(file, 'utf8'))),
      alike(session),
      `${file} shows what happens`,
    )
  }
})
