/** agentjail's command line, every command of it, on a modelled Mac: real files, processes and gate. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { ended, MacRoot, until } from './mac-root.js'
import { bootPf, freshMac } from './model/state.js'

t.setTimeout(780_000)
const mac = await MacRoot.open()
t.teardown(() => {
  mac.close()
})
const anchor = (): string => mac.state.pf.anchors['com.apple/agentjail'] ?? ''
const sleeping = ['--', '/bin/sleep', '300'] as const

/** Starts a jail and waits until its command runs. */
async function started(name: string, ...args: string[]) {
  const child = mac.startJail('run', '--name', name, ...args, ...sleeping)
  const end = ended(child)
  await until(`${name} runs`, async () => {
    const { stdout } = await mac.jail('status', '--json')
    const jails = JSON.parse(stdout) as { name: string; phase: string }[]
    return jails.some((jail) => jail.name === name && jail.phase === 'running')
  })
  return { child, end }
}

t.test('plan changes nothing; setup denies, once; doctor says so', async (t) => {
  const before = JSON.stringify(mac.state.pf)
  const plan = await mac.jail('plan', '--policy', 'openai-telegram', '--', '/usr/bin/true')
  t.match(plan, { code: 0, stdout: /rules \(pf\): anchor com\.apple\/agentjail\n.*deny-inbound/s })
  t.equal(JSON.stringify(mac.state.pf), before)
  const sick = await mac.jail('doctor')
  t.match(sick, { code: 1, stdout: /FAIL {2}pf +it is not loaded\n.*fix: sudo agentjail setup/s })
  t.match(await mac.jail('setup', '--print'), {
    code: 0,
    stdout: /launchctl bootstrap system \/Library\/LaunchDaemons\/org\.agentjail\.deny\.plist/,
  })
  t.equal(JSON.stringify(mac.state.pf), before, '--print neither')
  t.match(await mac.jail('setup'), { code: 0, stdout: /^done +directories\ndone +static deny\n/ })
  t.match(anchor(), /aj:base:deny-out-tcp/)
  t.match(mac.state.launchd, { 'org.agentjail.deny': { state: 'running' } })
  t.match(await mac.jail('setup'), { code: 0, stdout: /^(was ready .*\n){3}agentjail is ready/ })
  const { stdout: well } = await mac.jail('doctor')
  t.match(well, /ok +pf +enabled/)
  const failed = [...well.matchAll(/^FAIL +(\S+)/gm)].map(([, name]) => name)
  t.same(failed, ['dns'], 'the model has no DNS server that answers')
  const close = (mode: string) =>
    mac.run(['/usr/bin/perl', '-e', `chmod ${mode}, '/srv' or die "$!\n"`])
  await close('0700')
  const { stdout: shut } = await mac.jail('doctor')
  await close('0755')
  t.match(shut, /FAIL +readable +\/srv is closed to others\n.*fix: install Node and agentjail/s)
})

t.test('run: exit codes, denials, nothing left', async (t) => {
  const script = `exec 3<>/dev/tcp/127.0.0.1/1 2>/dev/null; id -u; exit 42`
  const run = await mac.jail(
    'run',
    '-p',
    'openai',
    '--name',
    'bot',
    '--',
    '/bin/bash',
    '-c',
    script,
  )
  t.match(run, { code: 42, stdout: '1900000000\n' })
  const missing = await mac.jail('run', '-p', 'openai', '--name', 'bot', '--', 'no-such-program')
  t.equal(missing.code, 127)
  t.match(await mac.jail('account', 'list'), { code: 0, stdout: /^bot +aj-bot +1900000000 / })
  t.notMatch(anchor(), /aj:1900000000:/)
  t.equal(mac.state.pf.tokens.length, 1, 'the reference of the static deny')
  t.strictSame(Object.values(mac.state.acls).flat(), [])
})

t.test('a jail that runs: status, join, reload, logs, stop', async (t) => {
  await mac.write('/etc/p.yaml', 'version: 1\nname: p\nnetwork: { allow: [a.example] }\n')
  const { end } = await started('live', '--policy', '/etc/p.yaml')
  t.match(await mac.jail('run', '--name', 'live', '-p', 'openai', '--', '/usr/bin/true'), {
    code: 125,
    stderr: /jail live is running already.*--name live-2/,
  })
  const joined = await mac.jail(
    'run',
    '--join',
    'live',
    '--',
    '/bin/sh',
    '-c',
    'id -u; echo $HTTPS_PROXY; exit 7',
  )
  t.match(joined, { code: 7, stdout: /^190000000\d\nhttp:\/\/agentjail:.*@127\.0\.0\.1:\d+\n$/ })
  t.match(
    await mac.jail('status'),
    { code: 0, stdout: /^live +p +aj-live/m },
    'a join ends only itself',
  )
  await mac.write('/etc/p.yaml', 'version: 1\nname: p\nnetwork: { allow: [b.example] }\n')
  t.match(await mac.jail('reload', 'live'), { code: 0, stdout: /new policy is in force/ })
  await mac.write('/etc/p.yaml', 'version: 1\nname: p\nnetwork: { allow: ["b.example:22"] }\n')
  t.match(await mac.jail('reload', 'live'), { code: 2, stderr: /sandbox profile/ })
  t.match(await mac.jail('uninstall'), { code: 125, stderr: /jail live is running/ })
  t.match(await mac.jail('logs', 'live'), { code: 0 })
  // Rules that another tool takes away come back.
  await mac.run(['/sbin/pfctl', '-a', 'com.apple/agentjail', '-F', 'all'])
  await until('restored', () => /deny-out-tcp/.test(anchor()))
  await mac.run(['/sbin/pfctl', '-d'])
  await until('enabled again', () => mac.state.pf.enabled)
  t.match(await mac.jail('stop', 'live'), { code: 0, stdout: 'live: stopped\n' })
  const { signal, stderr } = await end
  t.equal(signal, 'SIGTERM', stderr)
  t.match(stderr, /pf rules were gone .* restored/)
  t.notMatch(anchor(), /aj:190000000\d:/)
  t.match(await mac.jail('stop', 'live'), { code: 2, stderr: /no jail live is running/ })
})

t.test('killed: warden, gate; and a restart of the machine', async (t) => {
  const { child, end } = await started('dead', '-p', 'openai')
  mac.killInner(child)
  await once(child, 'exit')
  t.match(anchor(), /aj:190000000\d:deny-out-tcp/, 'what is left denies')
  t.match(await mac.jail('gc'), { code: 0, stdout: 'cleared dead\n' })
  await end
  t.notMatch(anchor(), /aj:190000000\d:/)
  t.equal((await mac.run(['/usr/bin/pgrep', '-x', 'sleep'])).stdout, '', 'no process left')

  const gateless = await started('gateless', '-p', 'openai')
  await mac.run(['/usr/bin/pkill', '-KILL', '-u', '450'])
  t.match(await gateless.end, { stderr: /the gate ended: .*the command is ended/s })

  Object.assign(mac.state, {
    boot: mac.state.boot.replace(/\d$/, '2'),
    pf: bootPf(),
    interfaces: ['lo0', 'en0'],
  })
  t.match(await mac.jail('setup'), { code: 0, stdout: /done +static deny\n/ })
  t.match(anchor(), /aj:base:deny-out-tcp/, 'as the job does at boot')
})

t.test('what is in the way is named, with the way out, and nothing is left', async (t) => {
  const { state } = mac
  const fresh = state.pf
  const cases: [string, () => void, () => void, RegExp][] = [
    [
      'anchor call missing',
      () => (state.pf = { ...fresh, main: 'pass all no state\n' }),
      () => (state.pf = fresh),
      /^agentjail: pf's main ruleset has no line: anchor "com\.apple\/\*"; another tool replaced the main ruleset; restart the Mac, or add the line to \/etc\/pf\.conf in its place\n$/m,
    ],
    [
      'a management profile',
      () => (state.quirks.pfRefused = true),
      () => (state.quirks.pfRefused = false),
      /^agentjail: pf does not list info: pfctl: \/dev\/pf: Operation not permitted; run as root; where a device management profile forbids pf, agentjail cannot work on this Mac\n$/m,
    ],
    [
      'uid taken',
      () => (state.quirks.uidStolen = 502),
      () => delete state.quirks.uidStolen,
      /^agentjail: UniqueID of aj-new was set to 190000000\d and reads back as 502; the directory did not take it; see: dscl \. -read \/Users\/aj-new; give Full Disk Access/m,
    ],
    [
      'no Full Disk Access',
      () => Object.assign(state.quirks, { fda: false, makingGuarded: true }),
      () => Object.assign(state.quirks, { fda: true, makingGuarded: false }),
      /^agentjail: macOS does not let agentjail make aj-new: no permission; give Full Disk Access \(System Settings > Privacy & Security\) to the program that started this/m,
    ],
    [
      'skipped',
      () => (state.pf.skipped = ['en0']),
      () => (state.pf.skipped = []),
      /^agentjail: pf does not look at packets of en0 \("set skip"\); remove it from "set skip on" in \/etc\/pf\.conf, and restart the Mac\n$/m,
    ],
  ]
  for (const [name, harm, mend, message] of cases) {
    const files = (await mac.run(['/usr/bin/find', '/var/run/agentjail', '-type', 'f'])).stdout
    const before = JSON.stringify([
      state.users,
      state.groups,
      Object.keys(state.launchd),
      state.acls,
    ])
    harm()
    const run = await mac.jail('run', '-p', 'openai', '--name', 'new', '--', '/usr/bin/true')
    mend()
    t.equal(run.code, 125, name)
    t.match(run.stderr, message, name)
    t.equal(
      JSON.stringify([state.users, state.groups, Object.keys(state.launchd), state.acls]),
      before,
      name,
    )
    t.equal(
      (await mac.run(['/usr/bin/find', '/var/run/agentjail', '-type', 'f'])).stdout,
      files,
      name,
    )
  }
  state.quirks.noDevices = ['pflog0']
  const unlogged = await mac.jail('run', '-p', 'openai', '--name', 'bot', '--', '/usr/bin/true')
  state.quirks.noDevices = []
  t.match(unlogged, {
    code: 0,
    stderr:
      /what pf denies will not be in the audit log: no pflog0 \(ifconfig: SIOCIFCREATE2: Invalid argument\); make it with: sudo ifconfig pflog0 create/,
  })
  state.quirks.fda = false
  const refused = await mac.jail('account', 'remove', 'bot')
  t.match(refused, {
    code: 125,
    stderr:
      /^agentjail: macOS does not let agentjail remove aj-bot: no permission; give Full Disk Access \(System Settings/,
  })
  t.match(await mac.jail('uninstall'), {
    code: 125,
    stderr: /pf rules: kept, since an account is left/,
  })
  t.match(anchor(), /aj:base:deny-out-tcp/, 'the deny stays')
  state.quirks.fda = true
  t.match(await mac.jail('account', 'remove', 'bot'), { code: 0, stdout: /removed aj-bot/ })
})

t.test(
  'a service: installed, started as launchd does, removed; uninstall leaves nothing',
  async (t) => {
    await mac.jail('setup')
    const install = await mac.jail(...['service', 'install', 'bot', '-p', 'openai', ...sleeping])
    t.match(install, { code: 0, stdout: /bot runs, and starts at each boot/ })
    const path = '/Library/LaunchDaemons/org.agentjail.jail.bot.plist'
    const parsed = spawnSync(
      'python3',
      ['-c', 'import json,plistlib,sys;print(json.dumps(plistlib.loads(sys.stdin.buffer.read())))'],
      {
        input: mac.state.files[path]?.text ?? '',
        encoding: 'utf8',
      },
    )
    const { ProgramArguments } = JSON.parse(parsed.stdout) as { ProgramArguments: string[] }
    const [node = '', ...words] = ProgramArguments
    const service = mac.start([node, '--require', '/srv/darwin.cjs', ...words])
    const end = ended(service)
    await until('the service runs', () => /deny-inbound/.test(anchor()))
    await until('its command runs', async () =>
      /"running"/.test((await mac.jail('status', '--json')).stdout),
    )
    t.match(await mac.jail('service', 'status', 'bot'), { code: 0, stdout: /^bot: running/ })
    t.match(await mac.jail('stop', 'bot'), { code: 0 })
    await end
    t.match(await mac.jail('service', 'logs', 'bot'), { code: 0 })
    t.match(await mac.jail('service', 'uninstall', 'bot'), {
      code: 0,
      stdout: /stopped and removed/,
    })
    t.match(await mac.jail('service', 'status', 'bot'), { code: 3, stdout: /not installed/ })
    t.match(await mac.jail('uninstall', '--purge'), { code: 0, stdout: /removed pf rules\n/ })
    const { users, groups, launchd, acls, pf } = mac.state
    // Empty, it stays until a restart on a real Mac too.
    Reflect.deleteProperty(pf.anchors, 'com.apple/agentjail')
    t.strictSame(
      { users, groups, launchd, acls: Object.values(acls).flat(), pf },
      { users: freshMac().users, groups: freshMac().groups, launchd: {}, acls: [], pf: bootPf() },
    )
    const left = await mac.run([
      ...['/usr/bin/find', '/var/run', '/var/log', '/var/agentjail', '/Library', '/etc/agentjail'],
      ...['-iname', '*agentjail*'],
    ])
    t.equal(left.stdout, '')
  },
)
