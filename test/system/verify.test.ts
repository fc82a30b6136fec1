/**
 * `agentjail verify` in the lab: nothing is open, and every probe can fail: with the pieces of the hardening left
 * out that hold it, it reports OPEN. Judge of the former is also the capture: nothing reaches the attacker.
 */
import t from 'tap'
import { pieces } from '../../lib/launch/types.js'
import { probes } from '../../lib/verify/probes.js'
import type { Finding } from '../../lib/verify/types.js'
import { firewall } from '../lab/firewall.js'
import { createLab, type Lab } from '../lab/lab.js'

interface Report {
  readonly held: boolean
  readonly findings: readonly Finding[]
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 400_000
const isolations = ['namespace', 'uid'] as const

const verify = async (lab: Lab, isolation: string, without: readonly string[]) => {
  const options = without.flatMap((piece) => ['--without', piece])
  const args = ['verify', '--json', '--isolation', isolation, ...options]
  const { stdout, stderr, code } = await lab.agentjail(args, { cwd: '/', timeout: 60_000 })
  try {
    return { code, stderr, report: JSON.parse(stdout) as Report }
  } catch {
    throw new Error(`verify ${args.join(' ')}: ${code}: ${stdout}${stderr}`)
  }
}

/** What lets the kernel of a usual desktop do more than a bare one: echo requests without privilege, a metadata service. */
const openUp = async (lab: Lab) => {
  await lab.run(['sysctl', '-q', '-w', 'net.ipv4.ping_group_range=0 2147483647'])
  await lab.run(['ip', 'addr', 'add', '169.254.169.254/32', 'dev', 'lo'])
  const serve = `require('net').createServer((s) => { s.on('error', () => 0); s.end('HTTP/1.0 200 OK\\n') }).listen(80, '169.254.169.254', () => console.log('up'))`
  const service = lab.spawn(['node', '-e', serve], { timeout })
  await service.until(/up/)
  return service
}

t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    const service = await openUp(lab)

    await t.test('whole: nothing is open', { timeout }, async (t) => {
      await lab.agentjail(['verify', '--isolation', isolation])
      await lab.remember()
      const { code, report, stderr } = await verify(lab, isolation, [])
      const open = report.findings.filter(({ verdict }) => verdict === 'open').map(({ id }) => id)
      // docs/iptables.md, "What differs".
      const known = firewall !== 'nftables' && isolation !== 'namespace' ? ['inbound-udp'] : []
      t.same(open, known, `this kernel has the means for all of it: ${stderr}`)
      const untested = report.findings.filter(({ verdict }) => verdict === 'not-testable')
      t.same(untested, [], 'everything can be tested here')
      t.equal(report.findings.length, probes.length)
      t.equal(code, 0)
      t.equal(report.held, true)
      const { files, ...others } = await lab.leftovers()
      t.same(others, {}, 'it leaves nothing')
      const left = (files ?? []).filter((path) => !/^.?\/var\/(log|lib)\/agentjail\//.test(path))
      t.same(left, [], 'no file but log and home')
    })

    const sets = new Map<string, string[]>()
    for (const { id, opens } of probes) {
      const key = opens.join(' ')
      sets.set(key, [...(sets.get(key) ?? []), id])
    }
    for (const [key, ids] of sets) {
      await t.test(`without ${key}`, { timeout }, async (t) => {
        const { code, report } = await verify(lab, isolation, key.split(' '))
        for (const id of ids) {
          const finding = report.findings.find((one) => one.id === id)
          t.equal(finding?.verdict, 'open', `${id}: ${finding?.why}`)
        }
        t.equal(code, 1)
        t.equal(report.held, false)
      })
    }
    t.same(
      pieces.filter((piece) => ![...sets.keys()].some((key) => key.split(' ').includes(piece))),
      [],
      'every piece is held by some probe',
    )
    service.kill('SIGKILL')
  })
}

t.test('its words', async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  const bad = await lab.agentjail(['verify', '--without', 'trousers'])
  t.equal(bad.code, 2)
  t.match(bad.stderr, /no piece of the hardening named "trousers"/)
  const table = await lab.agentjail(['verify', '--isolation', 'namespace'], { timeout: 60_000 })
  t.match(table.stdout, /A set-user-ID program +closed/)
  t.match(table.stdout, /Nothing is open that should not be/)
  t.notMatch(table.stdout, /[^\n -~]/, 'no control character for the terminal')
})
