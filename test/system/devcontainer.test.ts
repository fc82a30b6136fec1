/**
 * The devcontainer feature: its words as the specification has them (containers.dev, devcontainer-feature.json), its script
 * run for real on the lab's host, and a jail by what it installed.
 */
import { cpSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { createLab } from '../lab/lab.js'
import { agentjailPath, root } from '../lab/paths.js'
import { dockerCapabilities } from './crun.js'

const dir = join(root, 'examples/devcontainer/feature')
/** Properties of the specification; others are mistakes. */
const known = [
  ...['id', 'version', 'name', 'description', 'documentationURL', 'licenseURL', 'keywords'],
  ...['options', 'containerEnv', 'privileged', 'init', 'capAdd', 'securityOpt', 'entrypoint'],
  ...['customizations', 'dependsOn', 'installsAfter', 'legacyIds', 'deprecated', 'mounts'],
]

t.test('its words', (t) => {
  const feature = JSON.parse(readFileSync(join(dir, 'devcontainer-feature.json'), 'utf8')) as {
    readonly id: string
    readonly version: string
    readonly capAdd: readonly string[]
    readonly securityOpt?: readonly string[]
    readonly options: Readonly<Record<string, { type: string; default: unknown }>>
  }
  t.same(
    Object.keys(feature).filter((key) => !known.includes(key)),
    [],
  )
  t.match(feature.id, /^[a-z0-9-]+$/)
  t.match(feature.version, /^\d+\.\d+\.\d+$/)
  for (const [name, { type, default: value }] of Object.entries(feature.options))
    t.equal(typeof value, type, `option ${name}`)
  const compose = parse(readFileSync(join(root, 'examples/container/compose.yaml'), 'utf8')) as {
    services: { jailed: { cap_add: string[]; security_opt?: string[] } }
  }
  const { cap_add: capabilities, security_opt: filters } = compose.services.jailed
  t.same(feature.capAdd, capabilities, 'what a jail in a container is tested with')
  t.equal(feature.securityOpt, filters, 'and the engine’s filters stay')
  t.end()
})

t.test('its script', { timeout: 120_000 }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  cpSync(dir, `/proc/${lab.sides.host}/root/srv/feature`, { recursive: true })
  // The lab shows the build read-only, and npm wants to change modes: a package that leads to it.
  lab.writeFile(
    '/srv/package/package.json',
    JSON.stringify({ name: 'agentjail', version: '0.0.0', bin: 'run.sh' }),
  )
  lab.writeFile('/srv/package/run.sh', `#!/bin/sh\nexec node '${agentjailPath}' "$@"\n`, 0o755)
  const env = {
    PACKAGE: '/srv/package',
    npm_config_prefix: '/usr/local',
    npm_config_offline: 'true',
  }
  const done = await lab.run(['sh', '/srv/feature/install.sh'], { env, timeout: 60_000 })
  t.equal(done.code, 0, done.stderr)
  lab.writeFile(
    '/etc/agentjail/policies/p.yaml',
    'version: 1\nnetwork: { allow: [plain.example] }\n',
  )
  const fetch = ['curl', '-sS', 'https://plain.example/by-the-feature']
  const bounding = [...dockerCapabilities, 'NET_ADMIN'].map((cap) => `,+${cap.toLowerCase()}`)
  const run = await lab.run(
    [
      ...['setpriv', `--bounding-set=-all${bounding.join('')}`, '--inh-caps=-all', '--'],
      ...['agentjail', 'run', '-q', '--isolation', 'basic', '-p', '/etc/agentjail/policies/p.yaml'],
      ...['--', ...fetch],
    ],
    { cwd: '/srv', env: { PATH: '/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' }, timeout: 30_000 },
  )
  t.match(run.stdout, /path \/by-the-feature/, run.stderr)
  const without = await lab.run(['sh', '-c', 'PATH=/none; . /srv/feature/install.sh'])
  t.equal(without.code, 1)
  t.match(without.stderr, /Node and npm are missing/)
})
