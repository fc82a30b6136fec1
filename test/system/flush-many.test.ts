/**
 * One flush of the host's firewall under many jails in `uid` isolation: whoever sees it first puts the rules of all back
 * at once, each its own pins; each tells its user. Times are printed, and asserted nowhere.
 * Judge: the kernel's own list, the wire, and what each jail reaches afterwards.
 *
 * AGENTJAIL_FLUSHED: jails.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { damage, firewall } from '../lab/firewall.js'
import { createLab, type Lab } from '../lab/lab.js'
import { eventually } from './faults-kit.js'

const count = Number(process.env['AGENTJAIL_FLUSHED'] ?? 10)
const policyPath = '/etc/agentjail/policies/flushed.yaml'
const [address, port] = ['198.51.100.40', 8088]
const policy = `version: 1
name: flushed
network:
  allow:
    - { host: mutable.example, ports: [${port}], inspect: none }
`

/** By name, which pins its address; later by that address alone, one line of standard input each. */
const asking = [
  ...['sh', '-c'],
  `curl -sS -m 60 -o /dev/null http://mutable.example:${port}/ && echo pinned
   while read where; do
     curl -sS -m 10 -o /dev/null -H 'Host: mutable.example' "http://$where:${port}/" && echo "reached $where"
     echo "asked $where"
   done`,
]

/** Jails that have their way out. */
const led = async (lab: Lab): Promise<number> => {
  const show = async (argv: readonly string[]) => (await lab.run(argv)).stdout
  if (firewall === 'nftables')
    return (await show(['nft', 'list', 'chains', 'inet'])).match(/chain jail_/g)?.length ?? 0
  const rules = await show(['iptables-save'])
  return rules.match(/^-A AGENTJAIL_HELD .*-g AJ-\d+$/gm)?.length ?? 0
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 580_000
t.setTimeout(timeout)
t.test(`${count} jails, one flush`, { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile(policyPath, policy)
  await lab.dns.set('mutable.example', 'AAAA', [])
  await lab.dns.set('mutable.example', 'A', [address], 3000)
  const jails = Array.from({ length: count }, (_, n) => {
    const args = ['run', '-p', policyPath, '-n', `flushed-${n}`, '--isolation', 'uid', '--']
    return lab.spawnAgentjail([...args, ...asking], { timeout, cwd: '/srv' })
  })
  await Promise.all(jails.map((jail) => jail.until(/pinned/, 280_000)))
  // Their watches listen.
  await sleep(3000)
  t.equal(await led(lab), count, 'all run')

  const from = performance.now()
  const flushed = await lab.run(damage.everything)
  t.equal(flushed.code, 0, flushed.stderr)
  let opened = 0
  const told: number[] = jails.map(() => 0)
  const isBack = async () => {
    const now = performance.now() - from
    jails.forEach((jail, n) => {
      if (told[n] === 0 && jail.stderr().includes('have been restored')) told[n] = now
    })
    if (opened === 0 && (await led(lab)) === count) opened = performance.now() - from
    return opened > 0 && told.every((at) => at > 0)
  }
  t.ok(await eventually(isBack, 2400), 'all are restored, and each says so')
  const [first, last] = [Math.min(...told), Math.max(...told)].map(Math.round)
  t.comment(
    `${count} jails: granted again after ${Math.round(opened)} ms, told after ${first} to ${last} ms`,
  )
  for (const [n, jail] of jails.entries()) {
    jail.write(`${address}\n`)
    await jail.until(/asked/, 60_000)
    t.match(jail.stdout(), `reached ${address}`, `${n}: its pin is back`)
    t.match(jail.stderr().match(/have been restored/g), { length: 1 }, `${n}: told once`)
    t.notMatch(jail.stderr(), /command is ended/, `${n}: and runs on`)
  }
  for (const jail of jails) jail.end()
  await Promise.all(jails.map((jail) => jail.ended))
  t.equal(await led(lab), 0, 'none is left')
  t.equal(
    (await lab.run(['sh', '-c', 'ls /run/agentjail | grep rules'])).stdout,
    '',
    'nor its file',
  )
})
