/**
 * What a policy's numbers and modes do at the gate, watched in a jail: upload budgets of a grant and of the jail, requests
 * a second, report mode on plain HTTP, what a refused Host is told.
 */
import t, { type Test } from 'tap'
import { createLab, type Lab } from '../lab/lab.js'
import type { Isolation } from './faults-kit.js'

const cwd = '/srv/work'

interface Outcome {
  readonly stdout: string
  readonly log: string
}

const inJail = async (
  lab: Lab,
  name: string,
  policy: string,
  script: string,
  isolation: Isolation = 'namespace',
): Promise<Outcome> => {
  const path = `/etc/agentjail/policies/${name}.yaml`
  lab.writeFile(path, `version: 1\nname: ${name}\n${policy}`)
  const { stdout } = await lab.agentjail(
    ['run', '-q', '-p', path, '--isolation', isolation, '--', 'bash', '-c', script],
    { cwd, timeout: 120_000 },
  )
  const log = await lab.agentjail(['logs', name, '--json'])
  return { stdout, log: log.stdout }
}

const curl = `curl -sS -m 10 -o /dev/null -w '%{http_code}\\n'`
const upload = (bytes: number, url: string) =>
  `head -c ${bytes} /dev/zero | ${curl} --data-binary @- ${url} 2>&1 | tail -n 1`

const budgets = async (t: Test, lab: Lab) => {
  const perGrant = await inJail(
    lab,
    'pergrant',
    `network:
  allow:
    - { host: plain.example, inspect: http, limits: { uploadBytes: 100KB } }
    - shared-a.example
`,
    [
      upload(60_000, 'https://plain.example/a'),
      upload(60_000, 'https://plain.example/b'),
      `${curl} https://plain.example/c`,
      `curl -sS -m 10 https://plain.example/c`,
      upload(200_000, 'https://shared-a.example/d'),
    ].join('\n'),
  )
  t.match(perGrant.stdout, /^200\n(?:429|000|curl.*)\n429\n[^]*"reason": "budget-upload"[^]*200\n$/)
  t.match(perGrant.stdout, /limits\.uploadBytes/, 'and says what would raise it')
  t.match(perGrant.log, /"reason":"budget-upload"/)
  await lab.sync()
  const bodies = lab.internet.servedBy('plain').map(({ url, body }) => [url, body.length])
  t.same(
    bodies.filter(([url]) => url === '/a' || url === '/b' || url === '/c'),
    [['/a', 60_000]],
    'the request that crosses it is not whole at the server, and none comes after',
  )

  const perJail = await inJail(
    lab,
    'perjail',
    `network: { allow: [plain.example, shared-a.example] }\nlimits: { egressBytes: 100KB }\n`,
    [
      upload(60_000, 'https://plain.example/a'),
      upload(60_000, 'https://shared-a.example/b'),
      `${curl} https://plain.example/c 2>&1 | tail -n 1`,
    ].join('\n'),
  )
  t.match(perJail.stdout, /^200\n(?:000|curl.*)\n(?:000|curl.*)\n$/, 'over all grants, by SNI too')
  t.match(perJail.log, /"reason":"budget-upload"/)

  const rate = await inJail(
    lab,
    'rate',
    `network: { allow: [{ host: plain.example, inspect: http, limits: { rps: 2 } }] }\n`,
    `curl -sS -m 20 -w '%{http_code} ' ${'https://plain.example/r '.repeat(12)} | tr -d '\\n'`,
  )
  t.match(rate.stdout, /200 [^]*429 /, 'requests a second')
  t.match(rate.stdout, /budget-rate[^]*limits\.rps/, 'and the client is told why')
}

const reports = async (t: Test, lab: Lab) => {
  const reported = await inJail(
    lab,
    'report',
    `network: { report: true, allow: [shared-a.example] }\n`,
    [
      'curl -sS -m 10 http://plain.example/in-the-clear',
      'curl -sS -m 10 http://shared-a.example/granted-name-only',
    ].join('\n'),
  )
  t.match(reported.stdout, /host plain\.example .*path \/in-the-clear/, 'passed')
  t.match(reported.log, /"name":"plain\.example"[^\n]*/)
  const line = reported.log.split('\n').find((each) => each.includes('/in-the-clear'))
  t.match(line, /"layer":"http"/, 'and written down with its path')

  const told = await inJail(
    lab,
    'told',
    `network: { allow: [{ host: shared-a.example, ports: [80, 443], inspect: http }] }\n`,
    [
      `curl -sS -m 10 -H 'Host: shared-b.example' https://shared-a.example/x`,
      `curl -sS -m 10 -H 'Host: shared-b.example' http://shared-a.example/x`,
      `curl -sS -m 10 -H 'Host: [::1' https://shared-a.example/x`,
    ].join('\n'),
  )
  t.match(
    told.stdout,
    /host-mismatch[^]*"yaml": "- shared-b\.example"/,
    'the name that was asked for',
  )
  t.match(told.stdout, /name-not-granted[^]*"yaml": "- shared-b\.example:80"/, 'and its port')
  t.notMatch(told.stdout, /"yaml": "- shared-a/, 'not the name that is granted already')
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 200_000
t.setTimeout(4 * timeout)
t.test('numbers and modes', { timeout: 4 * timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile(`${cwd}/README`, 'a workspace\n')
  await t.test('budgets', { timeout }, (t) => budgets(t, lab))
  await t.test('report mode, and what a wrong Host is told', { timeout }, (t) => reports(t, lab))
})
