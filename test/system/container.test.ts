/**
 * agentjail under the capabilities that `walled` of `examples/container/compose.yaml` gives, and under fewer.
 * No engine runs here: what one would do to the capabilities is done by setpriv, in the lab. Its seccomp and AppArmor
 * filters are not part of this.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { createLab } from '../lab/lab.js'
import { agentjailPath, root } from '../lab/paths.js'

const compose = parse(readFileSync(join(root, 'examples/container/compose.yaml'), 'utf8')) as {
  services: { walled: { cap_add: string[]; cap_drop: string[]; volumes: string[] } }
}
const { cap_add: given, cap_drop: dropped, volumes } = compose.services.walled
/** Without these no jail is made at all; the others are for accounts and files. */
const needed = ['NET_ADMIN', 'SYS_ADMIN', 'SETUID', 'SETGID', 'SETPCAP', 'NET_BIND_SERVICE']

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 180_000
t.setTimeout(timeout)

t.test('with the capabilities of the compose file', { timeout }, async (t) => {
  t.same(dropped, ['ALL'])
  t.notOk(
    volumes.some((volume) => volume.includes('.sock')),
    'no socket of the engine',
  )
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile(
    '/etc/agentjail/policies/policy.yaml',
    'version: 1\nnetwork: { allow: [plain.example] }\n',
  )
  lab.writeFile('/srv/work/README', '')
  const run = (caps: readonly string[], isolation: string, jail: string, url: string) => {
    const bounding = caps.map((cap) => `,+${cap.toLowerCase()}`).join('')
    return lab.run(
      [
        ...['setpriv', `--bounding-set=-all${bounding}`, '--inh-caps=-all', '--'],
        ...[process.execPath, agentjailPath, 'run', '-p', '/etc/agentjail/policies/policy.yaml'],
        ...['--isolation', isolation, '-n', jail, '-q', '--'],
        ...['sh', '-c', `grep CapBnd /proc/self/status; curl -sS --max-time 8 ${url}`],
      ],
      { cwd: '/srv/work', timeout: 30_000 },
    )
  }
  for (const isolation of ['namespace', 'uid']) {
    const granted = await run(given, isolation, isolation, 'https://plain.example/c')
    t.match(granted, { code: 0, stdout: /path \/c/ }, `${isolation}: ${granted.stderr}`)
    t.match(granted.stdout, /CapBnd:\s0+$/m, 'the command has none of them')
    await lab.capture.clear()
    const evil = await run(given, isolation, isolation, 'https://evil.example/')
    t.match(evil, { code: 6 }, `${isolation}: ${evil.stderr}`)
    t.same(await lab.capture.packets((p) => p.dnsName?.endsWith('evil.example') === true), [])
  }
  for (const cap of needed) {
    await lab.capture.clear()
    const rest = given.filter((each) => each !== cap)
    const result = await run(rest, 'namespace', 'namespace', 'https://plain.example/none')
    t.not(result.code, 0, `without ${cap}`)
    t.notMatch(result.stdout, /path \/none/)
    t.match(result.stderr, /^agentjail: /m, `without ${cap} it says so: ${result.stderr}`)
    t.same(await lab.capture.packets((p) => p.proto === 'tcp'), [], 'and nothing leaves')
  }
})
