/**
 * One denial, told in one shape: in the DNS answer, at the socket, on stderr as it happens, in the summary
 * and in the audit log; with the process that tried, and the command that allows it.
 * Judges: dig, curl, what agentjail printed, the pids that the commands themselves printed.
 */
import t from 'tap'
import { createLab } from '../lab/lab.js'

const words = 'the policy grants no such name'
const policy = `version: 1
name: shape
network:
  allow:
    - plain.example
    - {host: api.openai.com, inspect: http, access: read-only}
`

interface Line {
  readonly reason: string
  readonly name?: string
  readonly port?: number
  readonly pid?: number
  readonly command?: string
}

t.test('one shape everywhere', { timeout: 240_000 }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile('/srv/work/shape.yaml', policy)
  const options = { cwd: '/srv/work', timeout: 60_000 }
  for (const isolation of ['namespace', 'uid']) {
    const run = async (flags: readonly string[], script: string) => {
      await lab.run(['rm', '-f', '/var/log/agentjail/shape.jsonl'])
      const argv = ['run', '-p', './shape.yaml', '--isolation', isolation, ...flags]
      const result = await lab.agentjail([...argv, '--', 'bash', '-c', script], options)
      const logs = await lab.agentjail(['logs', 'shape', '--denied', '--json'])
      const lines = logs.stdout.split('\n').filter((line) => line !== '')
      return { ...result, log: lines.map((line) => JSON.parse(line) as Line) }
    }

    const dns = await run(['--show-denials'], 'dig +tries=1 evil.example; echo "pid $$"')
    t.match(dns.stdout, 'status: NXDOMAIN', isolation)
    t.match(dns.stdout, `EDE: 15 (Blocked): (agentjail: name-not-granted: ${words})`)
    const [denied] = dns.log
    t.match(denied, { reason: 'name-not-granted', name: 'evil.example' })
    const allow = 'to allow it: agentjail allow shape evil.example'
    t.match(
      dns.stderr,
      new RegExp(`^agentjail: shape: blocked evil\\.example.*: ${words}; ${allow}$`, 'm'),
    )
    t.match(dns.stderr, new RegExp(`^  evil\\.example \\(1 look-up.*\\): ${words}$`, 'm'))
    t.match(dns.stderr, '  under network.allow:  - evil.example\n')
    t.match(dns.stderr, '  or run: agentjail allow ./shape.yaml evil.example\n')

    const http = await run(
      ['--show-denials'],
      'sleep 0.5; curl -sS -X POST https://api.openai.com/v1/files; curl -sS https://plain.example:81/',
    )
    t.match(http.stdout, '"code": "method-not-granted"')
    t.match(http.stderr, 'POST api.openai.com/v1/files')
    t.match(
      http.stderr,
      'the policy grants no such method (./shape.yaml:6)',
      'the line that decided',
    )
    t.match(http.stderr, 'curl: (7)', 'a refused port is refused at once')
    t.match(http.stderr, 'plain.example:81')
    t.same(
      new Set(http.log.map(({ reason }) => reason)),
      new Set(['method-not-granted', 'port-not-granted']),
    )

    // Where the kernel refuses, no process is known any more: it is who asked for the name.
    const ports = await run(
      [],
      'for port in 82 83 84 85; do curl -sS http://plain.example:$port/; sleep 1.5; done',
    )
    const tried = ports.log.filter(({ reason }) => reason === 'port-not-granted')
    const known = tried.filter(({ pid }) => pid !== undefined)
    t.ok(known.length > 0, `${isolation}: ${known.length} of ${tried.length} found`)
    for (const { port, command } of known)
      t.equal(command, `curl -sS http://plain.example:${port}/`)

    // The kernel forgets a socket in a moment, and a busy machine may look too late: of many, some are found.
    const many = 12
    const who = await run(
      [],
      `for i in $(seq ${String(many)}); do bash -c 'echo "pid $$"; exec getent hosts "who$0.example"' $i; sleep 0.1; done`,
    )
    const found = who.log.filter(({ pid }) => pid !== undefined)
    t.ok(found.length > 0, `${isolation}: ${String(found.length)} of ${String(many)} found`)
    for (const { name, command } of found) t.equal(command, `getent hosts ${name ?? ''}`)
    // In the jail they have other numbers: in order all the same.
    const pids = found.map(({ pid }) => pid ?? 0)
    t.same(
      pids,
      [...pids].sort((a, b) => a - b),
    )
    t.match(who.stderr, /\(\d+ look-ups? by getent hosts who\d+\.example, pid \d+\)/)
  }

  const text = lab.readFile('/srv/work/shape.yaml')
  const allowed = await lab.agentjail(
    ['allow', './shape.yaml', 'evil.example', 'evil.example:8080'],
    options,
  )
  t.equal(allowed.code, 0, allowed.stderr)
  t.equal(
    lab.readFile('/srv/work/shape.yaml'),
    `${text}    - evil.example\n    - evil.example:8080\n`,
    'and the command that was told writes the policy',
  )
  const argv = ['run', '-p', './shape.yaml', '--', 'curl', '-sS', 'http://evil.example:8080/']
  t.equal((await lab.agentjail(argv, options)).stderr.includes('blocked'), false)
  const wrong = await lab.agentjail(['allow', './shape.yaml', 'a.example', '*'], options)
  t.equal(wrong.code, 2)
  t.notMatch(lab.readFile('/srv/work/shape.yaml'), 'a.example\n    - a', 'all or nothing')
  t.notMatch(lab.readFile('/srv/work/shape.yaml'), '- a.example')
})
