/**
 * `agentjail verify` on a modelled Mac: nothing is open that should not be, and every probe can fail: with the pieces
 * left out that hold it, it reports OPEN. The probes' sockets, files and programs are judged by the profile and the rules
 * that were really handed over; who tells what got through is the far end of the wire.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { macPieces } from '../../lib/launch/types.js'
import { parseArrival, wireProbes } from '../../lib/verify/macos/wire.js'
import { macOpen, macProbes, openIfTransparent } from '../../lib/verify/macos/probes.js'
import type { Finding } from '../../lib/verify/types.js'
import { root } from '../lab/paths.js'
import { MacRoot } from './mac-root.js'

t.setTimeout(780_000)
const mac = await MacRoot.open({ traffic: true })
t.teardown(() => {
  mac.close()
})

async function verify(...args: string[]) {
  const { code, stdout, stderr } = await mac.jail('verify', '--json', ...args)
  try {
    const { held, findings, ...rest } = JSON.parse(stdout) as {
      readonly isolation: string
      readonly held: boolean
      readonly findings: readonly Finding[]
    }
    return { code, stderr, held, findings, ...rest }
  } catch {
    throw new Error(`verify ${args.join(' ')}: ${String(code)}: ${stdout}${stderr}`)
  }
}

t.test('whole: nothing is open but what is documented', async (t) => {
  const { code, held, findings, stderr, isolation } = await verify()
  t.equal(code, 0, stderr)
  t.equal(held, true)
  t.equal(isolation, 'uid')
  t.equal(findings.length, macProbes.length)
  const open = findings.filter(({ verdict }) => verdict === 'open').map(({ id }) => id)
  t.same(open.sort(), [...macOpen].sort())
  t.notOk(findings.find(({ id, documented }) => open.includes(id) && !documented))
  const untested = findings.filter(({ verdict }) => verdict === 'not-testable')
  t.same(
    untested.map(({ id }) => id),
    ['metadata'],
    JSON.stringify(untested),
  )
  const { interfaces, peers, addresses, neighbours, pf } = mac.state
  t.strictSame({ peers, addresses, neighbours }, { peers: {}, addresses: {}, neighbours: [] })
  t.notOk(interfaces.some((name) => name.startsWith('feth')))
  t.notMatch(pf.anchors['com.apple/agentjail'], /aj:190000000\d:/)
  const left = await mac.run([
    '/usr/bin/find',
    '/Users/Shared',
    '/private/tmp',
    '/run',
    '-name',
    '*verify*',
  ])
  t.equal(left.stdout, '')
})

t.test('every probe can fail', async (t) => {
  const sets = new Map<string, string[]>()
  for (const { id, opens } of macProbes) {
    const key = opens.join(' ')
    sets.set(key, [...(sets.get(key) ?? []), id])
  }
  for (const [piece, ids] of sets) {
    if (piece === '') continue
    const { code, held, findings } = await verify('--without', piece)
    for (const id of ids) {
      // There is no such service on the modelled Mac.
      if (id === 'metadata') continue
      const finding = findings.find((one) => one.id === id)
      t.equal(finding?.verdict, 'open', `without ${piece}: ${id}: ${finding?.why ?? ''}`)
      t.equal(finding?.documented, false)
    }
    if (piece === 'profile')
      for (const { id, opens } of macProbes)
        if (opens.includes('network'))
          t.equal(
            findings.find((one) => one.id === id)?.verdict === 'open',
            false,
            `pf alone: ${id}`,
          )
    t.equal(code, 1)
    t.equal(held, false)
    t.match((await mac.jail('status', '--json')).stdout, /^\[\]\s*$/, 'the jail is gone')
  }
  t.same([...sets.keys()].filter((key) => key !== '').sort(), [...macPieces].sort())
})

t.test('transparent: the resolver is open, and known to be', async (t) => {
  await mac.write(
    '/etc/t.yaml',
    'version: 1\nname: t\ntransparent: true\nnetwork: { allow: [a.example] }\n',
  )
  const { code, findings } = await verify('--policy', '/etc/t.yaml')
  t.equal(code, 0)
  const known = findings.filter(({ documented }) => documented).map(({ id }) => id)
  t.same(known.sort(), [...macOpen, 'resolver-service', 'resolver-socket'].sort())
})

t.test('its words; without a wire nothing on it is called closed', async (t) => {
  t.match(await mac.jail('verify', '--without', 'seccomp'), {
    code: 2,
    stderr: /no piece of the hardening named "seccomp"; one of profile, network, gate-names, end/,
  })
  mac.state.quirks.noDevices = ['feth7702']
  const { code, stdout, stderr } = await mac.jail('verify', '--isolation', 'namespace')
  mac.state.quirks.noDevices = []
  t.equal(code, 0, 'what cannot be tested fails nothing')
  t.match(stderr, /macOS has no isolation namespace: uid is used/)
  t.match(stdout, /A set-user-ID program +closed/)
  t.match(stdout, /Group staff.* OPEN \(known\)/)
  t.match(stdout, /2 open \(2 documented: docs\/known-issues\.md\)/)
  t.match(stdout, /Nothing is open that should not be/)
  const rows = stdout
    .split('\n')
    .filter((line) => /not testable +no wire to test it with/.test(line))
  t.equal(rows.length, wireProbes.length)
  t.match(rows[0], /feth7702 create: ifconfig/)
  t.notOk(mac.state.interfaces.includes('feth7701'), 'and none is left')
})

t.test('what is known to be open stands in the docs', async (t) => {
  for (const page of ['known-issues', 'macos']) {
    const text = readFileSync(join(root, `docs/${page}.md`), 'utf8')
    for (const id of [...macOpen, ...openIfTransparent])
      t.ok(text.includes(`\`${id}\``), `${page}: ${id}`)
  }
  const always: readonly string[] = macOpen
  for (const { id, opens } of macProbes) t.equal(opens.length === 0, always.includes(id), id)
})

t.test('lines of tcpdump', async (t) => {
  const rows: [string, string | undefined][] = [
    ['1 IP 198.18.77.1.5 > 198.18.77.3.8081: Flags [S], seq 1, length 0', 'tcp-port'],
    ['1 IP 198.18.77.1.5 > 198.18.77.3.8081: UDP, length 9', 'udp'],
    ['1 IP6 2001:2:0:4d::1.5 > 2001:2:0:4d::3.8081: UDP, length 9', 'udp-ipv6'],
    ['1 IP 198.18.77.1 > 198.18.77.3: ICMP echo request, id 0, seq 1, length 12', 'icmp'],
    [
      '1 IP6 fe80::1 > ff02::1:ff00:3: ICMP6, neighbor solicitation, who has 2001:2:0:4d::3, length 32',
      undefined,
    ],
    ['1 IP 198.18.77.3.443 > 198.18.77.1.5: Flags [R], seq 1, length 0', undefined],
    ['1 IP 198.18.77.1.5 > 198.18.77.2.53: 1+ A? x.tUNNel.example. (9)', 'dns-tunnel'],
    ['1 ARP, Request who-has 198.18.77.3 tell 198.18.77.1, length 28', undefined],
  ]
  for (const [line, id] of rows) t.equal(parseArrival(line, 'tunnel.example'), id, line)
})
