/** Services: property lists read back by another parser, units by systemd itself, launchd by the modelled Mac. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { parseJailName } from '../../lib/plan/names.js'
import { launchdServices, renderDenyDaemon } from '../../lib/service/launchd.js'
import { printPlist, type PlistValue } from '../../lib/service/plist.js'
import { serviceSpec } from '../../lib/service/service.js'
import { systemdServices } from '../../lib/service/systemd.js'
import type { ServiceSpec } from '../../lib/service/types.js'
import { FakeMac } from './model/system.js'

const spec: ServiceSpec = {
  name: parseJailName('bot'),
  policies: ['openai-telegram', '/etc/agentjail/own policy.yaml'],
  command: ['node', 'bot.js', '--say', 'a "b" $HOME %n \\ <&>', ''],
  cwd: '/srv/bot',
  node: process.execPath,
  program: '/usr/lib/agentjail/dist/bin/agentjail.js',
  logDir: '/var/log/agentjail',
  credentials: new Map(),
}

/** Python's plistlib, which knows nothing of this printer. */
function parsePlists(texts: readonly string[]): unknown[] {
  const script =
    'import json,plistlib,sys;print(json.dumps([plistlib.loads(x.encode("utf-8","surrogatepass")) for x in json.load(sys.stdin)]))'
  const { status, stdout, stderr } = spawnSync('python3', ['-c', script], {
    input: JSON.stringify(texts),
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`plistlib refused (python3 must be there): ${stderr}`)
  return JSON.parse(stdout) as unknown[]
}

t.test('property lists come back as they went in', async (t) => {
  const daemon = launchdServices(new FakeMac(), spec.logDir).render(spec)
  const deny = renderDenyDaemon('/usr/local/bin/node', '/a.js')
  const [parsed, denied] = parsePlists([daemon.text, deny.text])
  t.equal(daemon.path, '/Library/LaunchDaemons/org.agentjail.jail.bot.plist')
  t.match(parsed, {
    Label: 'org.agentjail.jail.bot',
    ProgramArguments: [
      spec.node,
      spec.program,
      'run',
      '--name',
      'bot',
      '--policy',
      'openai-telegram',
      '--policy',
      '/etc/agentjail/own policy.yaml',
      '--',
      ...spec.command,
    ],
    WorkingDirectory: '/srv/bot',
    KeepAlive: true,
    Umask: 63,
  })
  t.match(denied, { RunAtLoad: true, KeepAlive: { SuccessfulExit: false } })
  const leaf = fc.oneof(fc.string({ unit: 'grapheme' }), fc.integer(), fc.boolean())
  const { value } = fc.letrec<{ value: PlistValue }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 3 },
      leaf,
      fc.array(tie('value'), { maxLength: 3 }),
      fc.dictionary(fc.string(), tie('value'), { maxKeys: 3, noNullPrototype: true }),
    ),
  }))
  const values = fc.sample(value, 300)
  const printed = values.flatMap((each) => {
    try {
      return [{ each, text: printPlist(each) }]
    } catch {
      return []
    }
  })
  t.ok(printed.length > 200, `${String(printed.length)} printed`)
  t.strictSame(
    parsePlists(printed.map(({ text }) => text)),
    printed.map(({ each }) => each),
  )
  for (const bad of ['a\u0000b', 'a\rb', '\ud800', 'a\u001bb'])
    t.throws(() => printPlist(bad), { code: 'USAGE' })
  t.throws(() => printPlist(1.5), { code: 'USAGE' })
})

t.test('systemd takes the unit', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'agentjail-unit-'))
  t.teardown(() => {
    rmSync(dir, { recursive: true })
  })
  const services = systemdServices(new FakeMac(), {
    systemctl: '/usr/bin/systemctl',
    journalctl: '/usr/bin/journalctl',
  })
  const { path, text } = services.render({
    ...spec,
    cwd: '/',
    credentials: new Map([['openai', '/etc/agentjail/openai']]),
  })
  t.equal(path, '/etc/systemd/system/agentjail-jail-bot.service')
  const file = join(dir, 'agentjail-jail-bot.service')
  writeFileSync(file, text)
  const { status, stderr, error } = spawnSync(
    'systemd-analyze',
    ['verify', '--man=no', '--recursive-errors=no', file],
    { encoding: 'utf8' },
  )
  if (error !== undefined)
    throw new Error(`systemd-analyze must be there (Debian: systemd): ${error.message}`)
  t.equal(status, 0, stderr)
  t.notMatch(stderr, /agentjail-jail-bot\.service/)
  const wrong = text.replace('KillMode=mixed', 'KillMode=sometimes')
  writeFileSync(file, wrong)
  const again = spawnSync(
    'systemd-analyze',
    ['verify', '--man=no', '--recursive-errors=no', file],
    { encoding: 'utf8' },
  )
  t.match(again.stderr, /kill mode/, 'and would tell of a mistake')
  t.match(text, /"a \\"b\\" \$\$HOME %%n \\\\ <&>" ""\n/, 'words as written, nothing expanded')
  t.match(text, /LoadCredential=openai:\/etc\/agentjail\/openai\n/)
  t.throws(() => services.render({ ...spec, command: ['a', 'b\nExecStartPre=/bin/x'] }), {
    code: 'USAGE',
  })
})

t.test('install, status, logs, uninstall under launchd', async (t) => {
  const mac = new FakeMac()
  const services = launchdServices(mac, spec.logDir)
  t.strictSame(await services.status(spec.name), { state: 'not installed' })
  await services.install(spec)
  const path = '/Library/LaunchDaemons/org.agentjail.jail.bot.plist'
  t.match(mac.state.files[path], { mode: 0o644, uid: 0, gid: 0 })
  t.strictSame(await services.status(spec.name), { state: 'running', pid: 4711 })
  await services.install(spec)
  t.equal(Object.keys(mac.state.launchd).length, 1, 'a second install replaces the first')
  mac.state.files['/var/log/agentjail/service-bot.log'] = {
    kind: 'file',
    text: 'one\ntwo\nthree\n',
    mode: 0o600,
    uid: 0,
    gid: 0,
  }
  t.equal(await services.logs(spec.name, 2), 'two\nthree\n')
  t.equal(await services.uninstall(spec.name), true)
  t.equal(mac.state.files[path], undefined)
  t.strictSame(mac.state.launchd, {})
  t.equal(await services.uninstall(spec.name), false)
  mac.state.euid = 501
  await t.rejects(services.install(spec), { code: 'STATE', message: /Domain does not support/ })
  t.equal(mac.state.files[path], undefined, 'nothing left behind')
  t.throws(() => services.render({ ...spec, credentials: new Map([['a', '/b']]) }), {
    code: 'USAGE',
    hint: /keychain/,
  })
})

t.test('what a service starts from must be root’s', async (t) => {
  const mac = new FakeMac()
  const put = (
    path: string,
    mode: number,
    uid = 0,
    kind: 'file' | 'directory' = 'directory',
  ): void => {
    mac.state.files[path] = { kind, text: '', mode, uid, gid: 0 }
  }
  for (const path of ['/', '/usr', '/usr/bin', '/opt', '/etc', '/etc/agentjail']) put(path, 0o755)
  put('/usr/bin/node', 0o755, 0, 'file')
  put('/opt/agentjail.js', 0o644, 0, 'file')
  put('/etc/agentjail/p.yaml', 0o644, 0, 'file')
  put('/home', 0o755)
  put('/home/me', 0o755, 501)
  put('/home/me/p.yaml', 0o644, 501, 'file')
  const request = {
    name: spec.name,
    policies: ['p.yaml', 'openai'],
    command: ['true'],
    cwd: '/etc/agentjail',
    node: '/usr/bin/node',
    program: '/opt/agentjail.js',
    logDir: '/l',
    credentials: ['openai:/etc/agentjail/openai'],
  }
  t.match(await serviceSpec(mac, request), {
    policies: ['/etc/agentjail/p.yaml', 'openai'],
    credentials: new Map([['openai', '/etc/agentjail/openai']]),
  })
  const cases: [string, object, string][] = [
    ['policy of a user', { cwd: '/home/me' }, 'POLICY_UNSAFE'],
    ['no command', { command: [] }, 'USAGE'],
    ['no policy', { policies: [] }, 'USAGE'],
    ['missing policy', { policies: ['./gone.yaml'] }, 'USAGE'],
    ['credential by value', { credentials: ['sk-secret'] }, 'USAGE'],
  ]
  for (const [name, change, code] of cases)
    await t.rejects(serviceSpec(mac, { ...request, ...change }), { code }, name)
  put('/opt', 0o777)
  await t.rejects(serviceSpec(mac, request), {
    code: 'POLICY_UNSAFE',
    message: /others may change \/opt/,
  })
})
