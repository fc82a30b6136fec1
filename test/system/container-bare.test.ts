/**
 * agentjail in a container that has CAP_NET_ADMIN beside docker's defaults, by the words of `examples/container`. The
 * container is made by crun (see `crun.ts`): capabilities, seccomp, /proc/sys and the rest as docker's. Judges: the capture
 * on the wire, the kernel's status of the command, the process list of the lab.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { requiredTools } from '../../lib/system/distro.js'
import { evil, resolver4 } from '../lab/addresses.js'
import { createLab, type Lab } from '../lab/lab.js'
import { root } from '../lab/paths.js'
import {
  crunArgv,
  dockerCapabilities,
  dockerfileWords,
  makeContainer,
  type Container,
} from './crun.js'

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 180_000
t.setTimeout(2 * timeout)

const compose = parse(readFileSync(join(root, 'examples/container/compose.yaml'), 'utf8')) as {
  services: { jailed: Record<string, unknown> & { cap_add: string[]; volumes: string[] } }
}
const { jailed } = compose.services
const granted = [...dockerCapabilities, ...jailed.cap_add]
const entrypoint = dockerfileWords('examples/container/Dockerfile', 'ENTRYPOINT')
const policyPath = '/etc/agentjail/policies/policy.yaml'
const uidMin = 1_000_000_000

const policy = (rest: string): string => `version: 1\nname: jailed\nisolation: basic\n${rest}`

const prepare = async (t: Test, rest = 'network: { allow: [plain.example] }\n') => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  const box = await makeContainer(lab)
  // The image has no package acl.
  await lab.run(['rm', '-f', '/usr/bin/setfacl', '/usr/bin/getfacl'])
  lab.writeFile(`${box.files}${policyPath}`, policy(rest))
  return { lab, box }
}

/** The container's command: what docker would start for `docker compose run jailed WORDS`. */
const runIn = (
  lab: Lab,
  box: Container,
  words: readonly string[],
  caps: readonly string[] = granted,
) => {
  box.config([...entrypoint, ...words], caps)
  return lab.run(crunArgv('jailed'), { timeout: 40_000 })
}

t.test('its files', async (t) => {
  t.same(jailed.cap_add, ['NET_ADMIN'], 'this one capability')
  t.same(
    Object.keys(jailed).filter((key) => !['build', 'volumes', 'cap_add'].includes(key)),
    [],
    'and no filter of the engine is switched off',
  )
  t.notOk(jailed.volumes.some((volume) => volume.includes('.sock')))
  const { isolation } = parse(
    readFileSync(join(root, 'examples/container/policy.yaml'), 'utf8'),
  ) as {
    isolation: string
  }
  t.equal(isolation, 'basic')
  t.ok(entrypoint.includes(policyPath))
})

t.test('every tool is of a package that the Dockerfile installs', { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  const text = readFileSync(join(root, 'examples/container/Dockerfile'), 'utf8')
  const packages = /--no-install-recommends ([^\\]*)/.exec(text)?.[1]?.trim().split(' ') ?? []
  for (const tool of [...requiredTools, 'nft']) {
    const { stdout } = await lab.run(['sh', '-c', `dpkg-query -S "*bin/${tool}"`])
    const owners = stdout.split('\n').map((line) => line.split(':')[0] ?? '')
    t.ok(
      packages.some((name) => owners.includes(name)),
      `${tool}: ${stdout}`,
    )
  }
})

t.test('docker compose run jailed', { timeout: 2 * timeout }, async (t) => {
  const { lab, box } = await prepare(t)
  await t.test('the command is held, and what is not is said', async (t) => {
    const script = [
      'cat /proc/self/status; pwd; echo made > file; cat /etc/shadow',
      'curl -sS https://plain.example/in',
      'curl -sSk -m 5 https://evil.example/',
      `curl -sSk -m 5 https://${evil.v4}/; curl -sSk -m 5 'https://[${evil.v6}]/'`,
      `curl -sSk -m 5 --resolve evil.example:443:$(getent ahostsv4 plain.example | sed 's/ .*//;q') https://evil.example/`,
      `dig +time=1 +tries=1 @8.8.8.8 evil.example; ping -c 1 -W 1 ${evil.v4}; exit 7`,
    ].join('\n')
    const result = await runIn(lab, box, ['sh', '-c', script])
    t.equal(result.code, 7, result.stderr)
    t.match(result.stdout, /^CapBnd:\s0+$/m)
    t.match(result.stdout, /^CapPrm:\s0+$/m)
    t.match(result.stdout, /^NoNewPrivs:\s1$/m)
    t.match(result.stdout, /^Seccomp_filters:\s2$/m, 'the engine’s filter and the jail’s')
    t.match(result.stdout, /path \/in/, result.stderr)
    t.match(result.stdout, /^\/work$/m)
    t.match(result.stderr, /no CAP_SYS_ADMIN here/)
    t.match(result.stderr, /shadow: Permission denied/)
    t.equal(lab.readFile(`${box.files}/work/file`), 'made\n', 'the workspace can be written')
    const listed = await lab.run(['stat', '-c', '%u', `${box.files}/work/file`])
    t.equal(listed.stdout, '0\n', 'and what it made is the caller’s in the end')
    t.same(await lab.capture.packets((p) => p.dnsName?.endsWith('evil.example') === true), [])
    t.same(await lab.capture.packets((p) => p.dst === evil.v4 || p.dst === evil.v6), [])
    t.match(result.stderr, /evil\.example/, 'denials are told')
  })

  await t.test('one of its own CA, with inspect: http', async (t) => {
    lab.writeFile(
      `${box.files}${policyPath}`,
      policy('network: { allow: [{ host: plain.example, inspect: http, access: read-only }] }\n'),
    )
    const result = await runIn(lab, box, [
      ...[
        'sh',
        '-c',
        'curl -sS https://plain.example/read; curl -sS -X POST https://plain.example/w',
      ],
    ])
    t.match(result.stdout, /path \/read/, result.stderr)
    t.match(result.stdout, /"agentjail":\s*"denied"/)
    const left = await lab.run(['ls', `${box.files}/var/lib/agentjail`])
    t.notMatch(left.stdout, /^ca$/m, 'its file is gone with it')
  })

  await t.test('docker’s own DNS, which its NAT leads 127.0.0.11 to', async (t) => {
    lab.writeFile(`${box.files}${policyPath}`, policy('network: { allow: [plain.example] }\n'))
    lab.writeFile(`${box.files}/etc/resolv.conf`, 'nameserver 127.0.0.11\noptions ndots:0\n')
    const relay = lab.spawn(
      [...['socat', 'UDP-LISTEN:5311,bind=127.0.0.11,fork'], `UDP:${resolver4}:53`],
      { timeout },
    )
    const table = 'table ip nat'
    const rule = 'ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5311'
    const nat = await lab.run(['nft', '-f', '-'], {
      input: `${table} { chain OUTPUT { type nat hook output priority -100; ${rule}; }; }\n`,
    })
    t.equal(nat.code, 0, nat.stderr)
    await lab.capture.clear()
    const script = 'curl -sS https://plain.example/in; curl -sS https://evil.example/'
    const result = await runIn(lab, box, ['sh', '-c', script])
    t.match(result.stdout, /path \/in/, result.stderr)
    t.equal(result.code, 6, 'refused by name')
    t.same(await lab.capture.packets((p) => p.dnsName?.endsWith('evil.example') === true), [])
    relay.kill('SIGKILL')
    await lab.run(['nft', 'delete', 'table', 'ip', 'nat'])
    lab.writeFile(`${box.files}/etc/resolv.conf`, `nameserver ${resolver4}\n`)
  })

  await t.test('whoever kills agentjail ends the command', async (t) => {
    // As a further process of the container: its first one would take all others with it.
    const command = `setsid sh -c 'while :; do sleep 1 & done' & (setsid sleep 1000 &); echo up; sleep 1000`
    const script = [
      `${entrypoint.map((word) => `'${word}'`).join(' ')} sh -c ${JSON.stringify(command.replace("'while :; do sleep 1 & done'", "'while :; do sleep 0.2; done'"))} &`,
      'sleep 4; kill -9 $!; sleep 60',
    ].join('\n')
    box.config(['sh', '-c', script], granted)
    const container = lab.spawn(crunArgv('killed'), { timeout })
    await container.until(/up/, 20_000)
    const alive = () => lab.processes().filter(({ uid }) => uid > uidMin).length
    t.ok(alive() > 0)
    const until = Date.now() + 30_000
    while (alive() > 0 && Date.now() < until) await new Promise((r) => setTimeout(r, 100))
    t.equal(alive(), 0, 'nothing of the user lives')
    container.kill('SIGKILL')
    await container.ended
    await lab.run(['crun', '--root', '/run/crun', 'delete', '--force', 'killed'])
  })

  await t.test('whoever flushes the rules is noticed', async (t) => {
    const script = `touch up; while ! test -e go; do sleep 0.1; done; curl -sSk -m 3 https://${evil.v4}/; curl -sS --retry 20 --retry-all-errors --retry-delay 1 https://plain.example/after`
    box.config([...entrypoint, 'sh', '-c', script], granted)
    const container = lab.spawn(crunArgv('flushed'), { timeout })
    const host = `/proc/${lab.sides.host}/root`
    for (let n = 0; n < 200 && !readable(`${host}${box.files}/work/up`); n++)
      await new Promise((r) => setTimeout(r, 100))
    await lab.capture.clear()
    await lab.run(['nft', 'flush', 'ruleset'])
    lab.writeFile(`${box.files}/work/go`, '')
    const result = await container.ended
    t.match(result.stderr, /the rules were changed|restored|put back/i, result.stderr)
    t.same(await lab.capture.packets((p) => p.dst === evil.v4), [])
    t.match(result.stdout, /path \/after/, result.stderr)
  })

  await t.test('another isolation, or less than it takes, is refused', async (t) => {
    lab.writeFile(`${box.files}${policyPath}`, 'version: 1\nnetwork: { allow: [plain.example] }\n')
    const walled = await runIn(lab, box, ['true'])
    t.equal(walled.code, 125)
    t.match(walled.stderr, /lacks CAP_SYS_ADMIN.*--isolation basic/s)
    lab.writeFile(`${box.files}${policyPath}`, policy(''))
    for (const cap of ['NET_ADMIN', 'SETUID', 'SETGID', 'SETPCAP', 'KILL']) {
      const rest = granted.filter((each) => each !== cap)
      const result = await runIn(lab, box, ['echo', 'ran'], rest)
      t.equal(result.code, 125, cap)
      t.match(result.stderr, new RegExp(`lacks CAP_${cap}`))
      t.equal(result.stdout, '')
    }
  })
})

function readable(path: string): boolean {
  try {
    readFileSync(path)
    return true
  } catch {
    return false
  }
}
