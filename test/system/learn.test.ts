/**
 * `learn`, `allow` and `deny` in the lab.
 * Judges: what the programs printed, what the servers recorded, the capture on the wire.
 */
import t, { type Test } from 'tap'
import { createLab, type Lab } from '../lab/lab.js'
import { agentjailPath } from '../lab/paths.js'

const isolations = ['namespace', 'uid'] as const
const timeout = 240_000

/** Each line prints what only its server can have said. */
const job = `set -e
curl -sS https://plain.example/a
curl -sS http://shared-a.example/b
node -e 'fetch("https://registry.npmjs.org/left-pad").then((r) => r.text()).then((s) => console.log("npm", s.length))'
git ls-remote https://github.com/acme/demo
ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR git@github.com hello
`
const said = [
  /plain\.example .*path \/a/,
  /shared-a\.example .*path \/b/,
  /npm \d+/,
  /refs\/heads\/main/,
  /lab ran: hello/,
]

const env = { NODE_EXTRA_CA_CERTS: '/etc/ssl/certs/ca-certificates.crt' }
const options = { cwd: '/srv/work', env, timeout: 60_000 }

const learns = async (t: Test, lab: Lab, flags: readonly string[], file: string) => {
  const learn = ['learn', '-o', file, '-e', 'NODE_EXTRA_CA_CERTS', ...flags, '--', 'bash', 'job.sh']
  const learned = await lab.agentjail(learn, options)
  t.equal(learned.code, 0, learned.stderr)
  for (const line of said) t.match(learned.stdout, line, 'learning')
  const text = lab.readFile(file)
  t.notMatch(text, /\*\.|\bevil\b/, 'no wildcard host')
  const again = await lab.agentjail(learn, options)
  t.equal(again.code, 2, 'never over a file')
  for (const isolation of isolations) {
    const run = ['run', '-p', file, '--isolation', isolation, '--', 'bash', 'job.sh']
    const second = await lab.agentjail(run, options)
    t.equal(second.code, 0, `${isolation}: ${second.stderr}\n${text}`)
    for (const line of said) t.match(second.stdout, line, `${isolation}: under what was learned`)
    const closed = [
      'run',
      '-p',
      file,
      '--isolation',
      isolation,
      '--',
      'curl',
      '-sS',
      'https://evil.example/',
    ]
    await lab.capture.clear()
    t.equal((await lab.agentjail(closed, options)).code, 6, 'and nothing else')
    t.same(await lab.capture.packets((p) => p.dnsName?.endsWith('evil.example') === true), [])
  }
  return text
}

const privateStaysClosed = async (t: Test, lab: Lab) => {
  await lab.capture.clear()
  const script =
    'for a in 169.254.169.254 10.0.0.1 192.168.1.1 100.100.100.200; do curl -sS --max-time 5 http://$a/; done; curl -sS --max-time 5 http://203.0.113.66:31337/'
  const result = await lab.agentjail(
    ['learn', '-o', '/srv/out/private.yaml', '--', 'bash', '-c', script],
    options,
  )
  t.not(result.code, 28, 'no time-out')
  const isClosed = (address: string) => /^(169\.254|10\.|192\.168|100\.100)/.test(address)
  t.same(await lab.capture.packets((p) => isClosed(p.dst)), [], 'nothing on the wire')
  const text = lab.readFile('/srv/out/private.yaml')
  for (const address of [
    '169.254.169.254:80',
    '10.0.0.1:80',
    '100.100.100.200:80',
    '203.0.113.66:31337',
  ]) {
    t.match(text, new RegExp(`^ +# +${address.replaceAll('.', '\\.')} `, 'm'), 'a remark')
  }
  t.notMatch(text, /^ *-/m, 'and no grant')
}

/** The file is the caller's: root is led nowhere that the caller, or the command, could not write. */
const writesAsTheCaller = async (t: Test, lab: Lab) => {
  const cwd = '/home/alice/learning'
  const alice = { ...options, user: 'alice', cwd } as const
  await lab.run(['mkdir', cwd], { user: 'alice' })
  const learn = (file: string, ...command: string[]) =>
    ['learn', '-o', file, '-n', 'learning', '--', ...command] as const
  const isThere = async (file: string) => (await lab.run(['test', '-e', file])).code === 0

  t.match(await lab.agentjail([...learn('own/bot.yaml', 'touch', 'ran')], alice), {
    code: 2,
    stderr: /there is no directory own; make it/,
  })
  t.match(await lab.agentjail([...learn('/etc/profile.d/a.yaml', 'touch', 'ran')], alice), {
    code: 2,
    stderr: /you may not write in \/etc\/profile\.d/,
  })
  t.notOk(await isThere(`${cwd}/ran`), 'both told before the command runs')
  const through = ['sudo', 'agentjail', ...learn('/etc/profile.d/b.yaml', 'true')]
  lab.writeFile('/usr/local/bin/agentjail', `#!/bin/sh\nexec node '${agentjailPath}' "$@"\n`, 0o755)
  t.match(await lab.run(through, alice), { code: 125, stderr: /b\.yaml cannot be written: EACCES/ })
  t.notOk(await isThere('/etc/profile.d/b.yaml'), 'no more through sudo')
  await lab.run(['mkdir', '/srv/learning'])
  for (const caller of [alice, { ...alice, user: 'root', cwd: '/srv/learning' }] as const) {
    const { user } = caller
    await lab.run(['mkdir', 'own'], caller)
    const swap = 'mv own away && ln -s /etc/profile.d own'
    const led = await lab.agentjail([...learn('own/c.yaml', 'sh', '-c', swap)], caller)
    t.match(led, { code: 125, stderr: /own is another directory than before the run/ }, user)
    t.notOk(await isThere('/etc/profile.d/c.yaml'), 'no link of the command leads it elsewhere')
    await lab.run(['rm', '-r', 'own', 'away'], caller)
  }
  await lab.run(['mkdir', 'own'], { user: 'alice', cwd })
  t.match(await lab.agentjail([...learn('own/d.yaml', 'true')], alice), { code: 0 })
  t.equal((await lab.run(['stat', '-c', '%U %a', `${cwd}/own/d.yaml`])).stdout, 'alice 644\n')
}

const opensAndCloses = async (t: Test, lab: Lab, isolation: string) => {
  const file = `/srv/out/running-${isolation}.yaml`
  lab.writeFile(file, '# mine\nversion: 1\nnetwork:\n  allow:\n    - plain.example # the one\n')
  const asker = `while read -r url; do curl -sS --max-time 8 "$url" 2>&1; echo "= $?"; done`
  const jail = lab.spawnAgentjail(
    ['run', '-p', file, '--isolation', isolation, '-n', 'running', '-q', '--', 'bash', '-c', asker],
    options,
  )
  const ask = async (url: string) => {
    const before = jail.stdout().length
    jail.write(`${url}\n`)
    await jail.until(new RegExp(`^[^]{${String(before)}}[^]*= \\d+\\n`))
    return jail.stdout().slice(before)
  }
  const change = async (...words: string[]) => {
    const { code, stdout, stderr } = await lab.agentjail(words)
    t.equal(code, 0, `${words.join(' ')}: ${stderr}`)
    return stdout
  }
  t.match(await ask('https://plain.example/one'), /path \/one/)
  t.match(await ask('https://shared-a.example/two'), /resolve host/)
  t.match(
    await change('allow', 'running', 'shared-a.example', '--save'),
    new RegExp(`written to ${file}`),
  )
  t.match(await ask('https://shared-a.example/three'), /path \/three/)
  t.match(
    await ask('https://shared-b.example/'),
    /resolve host/,
    'its neighbour on the address stays closed',
  )
  t.match(await change('allow', 'running', 'shared-a.example'), /granted already/)
  t.match(await change('deny', 'running', 'shared-a.example'), /closed/)
  t.match(await ask('https://shared-a.example/four'), /resolve host/)
  t.match(await change('deny', 'running', 'shared-a.example'), /was not open/)
  t.equal(
    lab.readFile(file),
    '# mine\nversion: 1\nnetwork:\n  allow:\n    - plain.example # the one\n    - shared-a.example\n',
  )
  const wide = await lab.agentjail(['allow', 'running', '*.com'])
  t.match(wide, { code: 2, stderr: /every domain under \.com/ })
  t.match(await lab.agentjail(['allow', 'nobody', 'plain.example']), {
    code: 2,
    stderr: /no jail nobody/,
  })
  jail.end()
  await jail.ended
}

const savesBesideBundles = async (t: Test, lab: Lab) => {
  const jail = lab.spawnAgentjail(
    ['run', '-p', 'npm', '-q', '--', 'sh', '-c', 'echo up; read x'],
    options,
  )
  await jail.until(/up/)
  const file = '/etc/agentjail/policies/npm.yaml'
  t.match(
    (await lab.agentjail(['allow', 'npm', 'plain.example', '--save'])).stdout,
    new RegExp(`--policy ${file}`),
  )
  jail.end()
  await jail.ended
  const run = await lab.agentjail(
    ['run', '-p', file, '-q', '--', 'curl', '-sS', 'https://plain.example/z'],
    options,
  )
  t.match(run.stdout, /path \/z/, run.stderr)
}

t.setTimeout(timeout)
t.test('in the lab', { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile('/srv/work/job.sh', job)
  lab.writeFile('/srv/out/README', '')
  await t.test('learn', { timeout }, async (t) => {
    const text = await learns(t, lab, [], '/srv/out/bot.yaml')
    t.match(text, /^ {2}- npm # registry\.npmjs\.org$/m, 'a bundled block where it opens no more')
    t.match(text, /host: github\.com, ports: \[22, 443\]/, 'and not where it opens more')
  })
  await t.test('learn --http', { timeout }, async (t) => {
    const text = await learns(t, lab, ['--http'], '/srv/out/http.yaml')
    t.match(text, /method: GET, path: \/acme\/demo\/info\/refs/)
    t.match(
      text,
      /host: shared-a\.example .*\n +ports: \[80\]\n +inspect: http\n +rules:\n +- \{ method: GET, path: \/b \}/,
    )
  })
  await t.test('private networks stay closed', { timeout }, (t) => privateStaysClosed(t, lab))
  await t.test("learn: the caller's file", { timeout }, (t) => writesAsTheCaller(t, lab))
  for (const isolation of isolations) {
    await t.test(`allow and deny: ${isolation}`, { timeout }, (t) =>
      opensAndCloses(t, lab, isolation),
    )
  }
  await t.test('allow --save beside bundled policies', { timeout }, (t) =>
    savesBesideBundles(t, lab),
  )
})
