/** What is asked of seatbelt, launchctl and sudo; judged by an independent reader of the profile language. */
import { mkdtempSync, writeFileSync, chmodSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { tmpdir } from 'node:os'
import { spawn } from 'node:child_process'
import t from 'tap'
import { macArgv } from '../../lib/launch/macos/argv.js'
import { macEnvironment } from '../../lib/launch/macos/environment.js'
import { launchMac, type MacLaunchRequest } from '../../lib/launch/macos/launch.js'
import { seatbeltProfile, type SeatbeltSpec } from '../../lib/launch/macos/seatbelt.js'
import type { LaunchSpec } from '../../lib/launch/types.js'
import { macGateArgv } from '../../lib/session/macos/gate.js'
import { Profile, type Attempt } from './model/sbpl.js'
import { FakeMac } from './model/system.js'

const spec: SeatbeltSpec = {
  home: '/var/agentjail/home/bot',
  cwd: '/Users/Shared/work (1)',
  fs: { read: ['/Users/Shared/data'], write: [], deny: ['secret'] },
  protect: ['/Users/Shared/work (1)/node_modules/agentjail'],
  hidden: ['/var/run/agentjail', '/var/log/agentjail'],
  programs: ['/Users/admin/.nvm/versions/node/v22.1.0'],
  proxy: 49_100,
  connect: [5432],
  listen: [3000],
  tcp: [{ first: 465, last: 465 }],
  udp: [],
  systemResolver: false,
}
const work = '/Users/Shared/work (1)'

t.test('the profile', async (t) => {
  const profile = new Profile(seatbeltProfile(spec))
  const out = (more: Partial<Attempt>): Attempt => ({
    operation: 'network-outbound',
    proto: 'tcp',
    ...more,
  })
  const read = (path: string): Attempt => ({ operation: 'file-read-data', path })
  const write = (path: string): Attempt => ({ operation: 'file-write-data', path })
  const cases: [string, Attempt, boolean][] = [
    ['the gate', out({ host: '127.0.0.1', port: 49_100 }), true],
    ['the gate by udp', out({ proto: 'udp', host: '127.0.0.1', port: 49_100 }), false],
    ['a granted loopback port', out({ host: '::1', port: 5432 }), true],
    ['another loopback port', out({ host: '127.0.0.1', port: 8080 }), false],
    ['a port of a kernel grant', out({ host: '203.0.113.5', port: 465 }), true],
    ['any other port', out({ host: '203.0.113.5', port: 443 }), false],
    ['udp', out({ proto: 'udp', host: '8.8.8.8', port: 53 }), false],
    ['ICMP', out({ proto: 'icmp', host: '203.0.113.5' }), false],
    ['a raw socket', out({ proto: 'raw' }), false],
    [
      'the resolver socket',
      { operation: 'network-outbound', path: '/private/var/run/mDNSResponder' },
      false,
    ],
    [
      'the resolver service',
      { operation: 'mach-lookup', service: 'com.apple.dnssd.service' },
      false,
    ],
    [
      'the resolver control',
      { operation: 'mach-lookup', service: 'com.apple.mDNSResponder.control' },
      false,
    ],
    [
      'a docker socket',
      { operation: 'network-outbound', path: '/private/var/run/docker.sock' },
      false,
    ],
    [
      'an ssh agent of the admin',
      { operation: 'network-outbound', path: '/private/tmp/com.apple.launchd.x/Listeners' },
      false,
    ],
    [
      'a socket of its own',
      { operation: 'network-outbound', path: '/private/var/agentjail/home/bot/s' },
      true,
    ],
    [
      'listen where granted',
      { operation: 'network-bind', proto: 'tcp', host: '127.0.0.1', port: 3000 },
      true,
    ],
    [
      'listen elsewhere',
      { operation: 'network-bind', proto: 'tcp', host: '0.0.0.0', port: 3000 },
      false,
    ],
    [
      'accept elsewhere',
      { operation: 'network-inbound', proto: 'udp', host: '0.0.0.0', port: 4000 },
      false,
    ],
    ['clipboard', { operation: 'mach-lookup', service: 'com.apple.pasteboard.1' }, false],
    [
      'open applications',
      { operation: 'mach-lookup', service: 'com.apple.coreservices.launchservicesd' },
      false,
    ],
    [
      'directory',
      { operation: 'mach-lookup', service: 'com.apple.system.opendirectoryd.libinfo' },
      true,
    ],
    ['sudo', { operation: 'process-exec', path: '/usr/bin/sudo' }, false],
    ['traceroute', { operation: 'process-exec', path: '/usr/sbin/traceroute' }, false],
    ['launchctl', { operation: 'process-exec', path: '/bin/launchctl' }, false],
    ['crontab', { operation: 'process-exec', path: '/usr/bin/crontab' }, false],
    ['git', { operation: 'process-exec', path: '/usr/bin/git' }, true],
    ['signal a process outside', { operation: 'signal', target: 'others' }, false],
    ['signal a process inside', { operation: 'signal', target: 'same-sandbox' }, true],
    ['system libraries', read('/usr/lib/libSystem.B.dylib'), true],
    ['homebrew', read('/opt/homebrew/bin/python3'), true],
    ['the workspace', write(`${work}/src/a.ts`), true],
    ['its hooks', write(`${work}/.git/hooks/pre-commit`), false],
    ['hooks of a repository within', write(`${work}/sub/.git/config`), false],
    ['its objects', write(`${work}/.git/objects/aa`), true],
    ['editor settings', write(`${work}/.vscode/tasks.json`), false],
    ['.env', read(`${work}/.env`), false],
    ['.env.example', read(`${work}/.env.example`), true],
    ['denied by the policy', read(`${work}/secret/key`), false],
    [
      'agentjail in the workspace',
      write(`${work}/node_modules/agentjail/dist/bin/agentjail.js`),
      false,
    ],
    ['readable data', read('/Users/Shared/data/x'), true],
    ['readable data is not writable', write('/Users/Shared/data/x'), false],
    ['a human home', read('/Users/admin/.ssh/id_ed25519'), false],
    ['node below a home', read('/Users/admin/.nvm/versions/node/v22.1.0/bin/node'), true],
    ['the way to it', { operation: 'file-read-metadata', path: '/Users/admin/.nvm' }, true],
    [
      'names in a human home',
      { operation: 'file-read-metadata', path: '/Users/admin/Documents' },
      false,
    ],
    ['keychain', read('/Library/Keychains/System.keychain'), false],
    ['state of agentjail', read('/private/var/run/agentjail/pf.json'), false],
    ['its own home', write('/private/var/agentjail/home/bot/.npm/x'), true],
    ['another home', read('/private/var/agentjail/home/other/x'), false],
    ['/tmp of all', write('/private/tmp/x'), false],
    ['/dev/null', write('/dev/null'), true],
    ['a terminal', write('/dev/ttys003'), true],
    ['a disk', write('/dev/disk0'), false],
    ['setuid files', { operation: 'file-write-setugid', path: `${work}/x` }, false],
    ['/etc', write('/private/etc/hosts'), false],
  ]
  for (const [name, attempt, expected] of cases) t.equal(profile.allows(attempt), expected, name)
  const open = new Profile(seatbeltProfile({ ...spec, systemResolver: true }))
  t.equal(
    open.allows({ operation: 'mach-lookup', service: 'com.apple.dnssd.service' }),
    true,
    'transparent opens the resolver, and says so',
  )
  const named = new Profile(
    seatbeltProfile({ ...spec, fs: { read: [], write: ['./out', '~/cache'], deny: [] } }),
  )
  t.equal(named.allows(write(`${work}/out/a`)), true)
  t.equal(named.allows(write(`${work}/src/a`)), false, 'with fs.write, only what it names')
  t.throws(() => seatbeltProfile({ ...spec, cwd: '/Users/x\n(allow network*)' }), {
    code: 'LAUNCH',
  })
  const quoted = new Profile(
    seatbeltProfile({ ...spec, fs: { read: ['/a") (allow network*) ("'], write: [], deny: [] } }),
  )
  t.equal(
    quoted.allows(out({ host: '203.0.113.5', port: 443 })),
    false,
    'a path cannot end its quotation',
  )
})

t.test('argv and environment', async (t) => {
  const env = macEnvironment({
    env: new Map([
      ['OPENAI_API_KEY', 'sk-very-secret'],
      ['DYLD_INSERT_LIBRARIES', '/x'],
      ['NODE_OPTIONS', '-r x'],
      ['PATH', '/usr/bin'],
    ]),
    home: '/var/agentjail/home/bot',
    proxy: { port: 49_100, token: 'tok' },
    ca: { own: '/o.pem', bundle: '/b.pem' },
  })
  t.equal(env.get('HTTPS_PROXY'), 'http://agentjail:tok@127.0.0.1:49100')
  t.equal(env.get('ALL_PROXY'), 'socks5h://agentjail:tok@127.0.0.1:49100')
  t.equal(env.get('NODE_EXTRA_CA_CERTS'), '/o.pem')
  t.equal(env.get('SSL_CERT_FILE'), '/b.pem')
  t.equal(env.has('DYLD_INSERT_LIBRARIES'), false)
  t.equal(env.has('NODE_OPTIONS'), false)
  const argv = macArgv({
    user: { name: 'aj-bot', uid: 1_900_000_001 },
    env,
    profile: '(version 1)',
    command: ['/usr/bin/true', '-x', '--'],
  })
  t.strictSame(argv.slice(0, 5), ['/bin/launchctl', 'asuser', '1900000001', '/usr/bin/sudo', '-n'])
  t.strictSame(argv.slice(-3), ['/usr/bin/true', '-x', '--'])
  t.notMatch(argv.join(' '), /secret|tok@/, 'no value in argv')
  t.match(argv[5], /^--preserve-env=OPENAI_API_KEY,PATH,/)
  t.throws(
    () =>
      macArgv({
        user: { name: 'x', uid: 1 },
        env: new Map([['A,B', '']]),
        profile: '',
        command: ['/x'],
      }),
    { code: 'LAUNCH' },
  )
  const gate = macGateArgv({
    node: process.execPath,
    specs: [{ proto: 'tcp', meant: 0, role: 'proxy' }],
    user: { uid: 450, gid: 450 },
  })
  t.ok(gate.includes('127.0.0.1'), 'the proxy listens on IPv4 loopback alone')
  const profile = new Profile(gate[gate.indexOf('-p') + 1] ?? '')
  t.equal(profile.allows({ operation: 'file-write-data', path: '/etc/hosts' }), false)
  t.equal(profile.allows({ operation: 'process-fork' }), false)
})

t.test('a launch through a modelled chain', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'agentjail-mac-'))
  t.teardown(() => {
    rmSync(dir, { recursive: true })
  })
  mkdirSync(join(dir, 'bin'))
  writeFileSync(join(dir, 'bin', 'plain'), 'x')
  chmodSync(join(dir, 'bin', 'plain'), 0o644)
  const launchSpec = (command: [string, ...string[]]): LaunchSpec => ({
    jail: 'bot',
    user: {
      name: 'aj-bot',
      uid: 1_900_000_001,
      gid: 1_900_000_001,
      home: '/var/agentjail/home/bot',
    },
    command,
    cwd: dir,
    env: new Map([
      ['PATH', `${join(dir, 'bin')}:/usr/bin:/bin`],
      ['KEY', 'value'],
    ]),
    isolation: 'uid',
    fs: { read: [], write: [], deny: [] },
    limits: { memory: 1 },
    userNamespaces: false,
    resolvConf: '',
    hosts: '',
    protect: [],
    caller: { uid: 501, gid: 20 },
    without: [],
  })
  const request = (command: [string, ...string[]]): MacLaunchRequest => ({
    spec: launchSpec(command),
    tcp: [],
    udp: [],
    loopback: { connect: [], listen: [] },
    transparent: false,
    hidden: [],
  })
  const seen: string[][] = []
  const run = async (command: [string, ...string[]]) => {
    const running = await launchMac(new FakeMac(), request(command), (argv, { cwd, env }) => {
      seen.push([...argv])
      new Profile(argv[argv.indexOf('-p') + 1] ?? '')
      const [program = '', ...args] = argv.slice(argv.indexOf('-p') + 2)
      return spawn(program, args, { cwd, env, stdio: 'ignore' })
    })
    return { running, ending: await running.ended }
  }
  t.strictSame((await run(['true'])).ending, { code: 0 })
  t.strictSame(
    (await run([process.execPath, '-e', 'process.exit(process.env.KEY === "value" ? 42 : 1)']))
      .ending,
    { code: 42 },
  )
  t.strictSame(
    (await run([process.execPath, '-e', 'process.kill(process.pid, "SIGTERM")'])).ending,
    { signal: 'SIGTERM' },
  )
  t.strictSame((await run(['no-such-command'])).ending, { code: 127 })
  t.strictSame((await run(['plain'])).ending, { code: 126 })
  t.match((await run(['true'])).running.notes, [/limits\.memory is not held on macOS/])
  t.match(seen[0]?.at(-1), /^\/.*true$/, 'an absolute path')
})
