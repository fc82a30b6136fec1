/**
 * A session with real processes on Linux: the modelled Mac as an executable, the real gate, a real command under its
 * own uid. Needs root, setpriv and perl, and says so.
 */
import { spawn } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { defaultAnchor } from '../../lib/backend/pf/names.js'
import { findMacAccount } from '../../lib/account/macos.js'
import type { Decision } from '../../lib/audit/record.js'
import { pfBackend } from '../../lib/backend/pf/index.js'
import { launchMac } from '../../lib/launch/macos/launch.js'
import type { Running } from '../../lib/launch/types.js'
import { runCommand } from '../../lib/cli/commands/run.js'
import { collectDead } from '../../lib/session/context.js'
import { macPlatform } from '../../lib/session/macos/platform.js'
import { compilePlan } from '../../lib/plan/compile.js'
import { parseJailName } from '../../lib/plan/names.js'
import type { Facts, Settings } from '../../lib/plan/types.js'
import { spawnMacGate } from '../../lib/session/macos/gate.js'
import { darwinSystem } from '../../lib/session/macos/system.js'
import type { MacEvents, MacParts } from '../../lib/session/macos/parts.js'
import { MacWarden } from '../../lib/session/macos/warden.js'
import { openRegistry } from '../../lib/session/registry.js'
import { realSystem } from '../../lib/system/real.js'
import type { System } from '../../lib/system/types.js'
import { FakeSession } from './model/system.js'
import { bootPf, type MacState } from './model/state.js'
import { places } from './model/tools.js'
import { isInOwnNetwork } from '../own-network.js'
import { grant, policy } from './policies.js'
import { reserved } from './rulesets.js'

for (const need of ['/usr/bin/setpriv', '/usr/bin/perl', '/bin/ps'])
  if (process.getuid?.() !== 0 || !existsSync(need))
    throw new Error(`this test needs root and ${need}`)

// The gate and the command have reserved uids.
if (!isInOwnNetwork(import.meta.url, { timeout: 800_000 })) process.exit()

// Each modelled command is a process of its own: slow on a busy machine.
t.setTimeout(780_000)

const main = fileURLToPath(new URL('./model/main.js', import.meta.url))
const dir = mkdtempSync(join(tmpdir(), 'agentjail-mac-'))
chmodSync(dir, 0o755)
const stateFile = join(dir, 'mac.json')
const settings: Settings = {
  uidRange: { first: reserved.first + 700, last: reserved.first + 799 },
  stateDir: join(dir, 'run'),
  logDir: join(dir, 'log'),
  homeDir: join(dir, 'home'),
  gateUser: 'agentjail-gate',
}
const workspace = join(dir, 'work')
const sandboxExec = join(dir, 'sandbox-exec')
mkdirSync(settings.stateDir, { mode: 0o700 })
mkdirSync(join(settings.stateDir, 'jails'))
mkdirSync(workspace)
writeFileSync(sandboxExec, '#!/usr/bin/perl\nshift; shift; exec { $ARGV[0] } @ARGV;\n', {
  mode: 0o755,
})
t.teardown(() => {
  rmSync(dir, { recursive: true })
})

/** The real system, but that every command of macOS is the model's. */
function modelledSystem(): System {
  const real = realSystem()
  const run: System['run'] = (argv, options) => {
    const name = argv[0].slice(argv[0].lastIndexOf('/') + 1)
    if (name === 'ps') return real.run(argv, options)
    if (places.get(name) !== argv[0]) throw new Error(`not a command of macOS: ${argv[0]}`)
    return real.run([process.execPath, main, stateFile, ...argv], options)
  }
  return darwinSystem({ ...real, run, open: () => new FakeSession(0) })
}

async function run(
  command: readonly [string, ...string[]],
  interrupt?: (running: Running, parts: MacParts) => void,
) {
  const system = modelledSystem()
  const jail = parseJailName('bot')
  const account = await findMacAccount(system, settings, { jail, callerUid: 501 })
  const facts = {
    platform: 'darwin',
    settings,
    account,
    resolvers: [{ address: '127.0.0.1', port: 9 }],
    hostAddresses: ['127.0.0.1', '::1'],
    caller: { uid: 501, gid: 20 },
    callerEnv: { SECRET: 'do-not-pass' },
    nodePath: process.execPath,
    protect: [],
    hostName: 'mac',
  } as unknown as Facts
  const given = policy('bot', { grants: [grant('g1', 'api.openai.com')] })
  const request = { jail, command, cwd: workspace, isolation: 'uid' } as unknown as Parameters<
    typeof compilePlan
  >[2]
  const records: Decision[] = []
  const notices: string[] = []
  let output = ''
  const parts: MacParts = {
    system,
    settings,
    registry: openRegistry(system, settings.stateDir),
    backend: pfBackend({
      system,
      stateDir: settings.stateDir,
      range: settings.uidRange,
      ownAddresses: () => ['127.0.0.1'],
    }),
    openGate: (gate) => spawnMacGate({ ...gate, sandboxExec }),
    launch: (launch) =>
      launchMac(system, launch, ([program, ...args], { cwd, env }) => {
        const child = spawn(process.execPath, [main, stateFile, program, ...args], {
          cwd,
          env,
          stdio: ['ignore', 'pipe', 'pipe'],
        })
        for (const stream of [child.stdout, child.stderr])
          stream.setEncoding('utf8').on('data', (text: string) => {
            output += text
          })
        return child
      }),
    openAudit: () =>
      Promise.resolve({
        write: (decisions) => records.push(...decisions),
        drop: () => undefined,
        close: () => Promise.resolve(),
      }),
    lock: (work) => work(),
  }
  const events: MacEvents = {
    onDecisions: () => undefined,
    onNotice: (text) => notices.push(text),
    onRunning: (running) => interrupt?.(running, parts),
  }
  const ending = await new MacWarden(parts, compilePlan(given, facts, request), facts, events).run()
  return { ending, output, records, notices, system, uid: account.uid }
}

const client = String.raw`
const http = require('node:http')
const proxy = new URL(process.env.HTTPS_PROXY)
const ask = (auth) => new Promise((resolve) => {
  const headers = auth ? { 'proxy-authorization': 'Basic ' + Buffer.from(decodeURIComponent(proxy.username) + ':' + proxy.password).toString('base64') } : {}
  const request = http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: 'evil.example:443', headers })
  request.on('connect', (response, socket) => { socket.destroy(); resolve(response.statusCode) })
  request.on('error', (error) => resolve(error.code))
  request.end()
})
Promise.all([ask(true), ask(false)]).then((codes) => {
  const { HOME, USER, SECRET, TMPDIR } = process.env
  console.log(JSON.stringify({ uid: process.getuid(), groups: process.getgroups(), codes, HOME, USER, SECRET, TMPDIR, cwd: process.cwd() }))
  process.exit(7)
})
`

t.test('a command asks the real gate for what is not granted', async (t) => {
  const { ending, output, records, notices, uid, system } = await run([
    process.execPath,
    '-e',
    client,
  ])
  t.strictSame(ending, { code: 7 }, `${output}\n${notices.join('\n')}`)
  const said = JSON.parse(output) as Record<string, unknown>
  t.match(said, {
    uid,
    codes: [403, 407],
    HOME: join(settings.homeDir, 'bot'),
    USER: 'aj-bot',
    cwd: workspace,
    TMPDIR: join(settings.homeDir, 'bot', 'tmp'),
  })
  t.equal(said['SECRET'], undefined, "the caller's variables stay out")
  t.match(records, [{ verdict: 'deny', reason: 'name-not-granted', name: 'evil.example' }])
  t.strictSame(await system.processesOf(uid), [], 'no process left')
  const { pf } = JSON.parse(readFileSync(stateFile, 'utf8')) as MacState
  t.strictSame(Object.keys(pf.tables), [])
  t.notMatch(
    pf.anchors['com.apple/agentjail'],
    new RegExp(`aj:${String(uid)}:`),
    'no rule of the jail left',
  )
  t.match(pf.anchors['com.apple/agentjail'], /aj:base:deny-out-tcp/, 'the static deny stays')
  t.equal(existsSync(join(settings.stateDir, 'jails', 'bot.json')), false)
  t.equal(pf.enabled, true)
  t.equal(pf.main, bootPf().main, 'the main ruleset is untouched')
})

t.test('what the command left behind is ended', async (t) => {
  const leave = `const { spawn } = require('node:child_process'); spawn('/bin/sleep', ['300'], { detached: true, stdio: 'ignore' }).unref()`
  const { ending, system, uid, notices } = await run([process.execPath, '-e', leave])
  t.strictSame(ending, { code: 0 }, notices.join('\n'))
  t.strictSame(await system.processesOf(uid), [])
})

t.test('signals reach the command, and its death is told', async (t) => {
  const { ending } = await run(['/bin/sleep', '300'], (running) => {
    setTimeout(() => {
      running.signal('SIGTERM')
    }, 300)
  })
  t.strictSame(ending, { signal: 'SIGTERM' })
})

t.test('rules flushed by another tool are put back while it runs', async (t) => {
  const { ending, notices } = await run(['/bin/sleep', '3'], (_, { system }) => {
    setTimeout(
      () => void system.run(['/sbin/pfctl', '-a', 'com.apple/agentjail', '-F', 'all']),
      200,
    )
  })
  t.strictSame(ending, { code: 0 })
  t.match(notices.join('\n'), /pf rules were gone .* restored/)
})

t.test('the command line: run, and gc after a crash', async (t) => {
  process.chdir(workspace)
  const system = modelledSystem()
  const config = { ...settings, upstreams: [], pfAnchor: defaultAnchor }
  const registry = openRegistry(system, settings.stateDir)
  const { stateDir, uidRange: range } = settings
  const backend = pfBackend({ system, stateDir, range, ownAddresses: () => ['127.0.0.1'] })
  const platform = macPlatform({
    ...{ system, config, registry, backend },
    openGate: (gate) => spawnMacGate({ ...gate, sandboxExec }),
    launch: (launch) =>
      launchMac(system, launch, ([program, ...args], { cwd, env }) =>
        spawn(process.execPath, [main, stateFile, program, ...args], { cwd, env, stdio: 'ignore' }),
      ),
  })
  const context = { system, config, registry, backend, platform }
  let told = ''
  const sink = { write: (text: string) => (told += text) !== '' }
  const policyFile = join(dir, 'cli.yaml')
  writeFileSync(policyFile, 'version: 1\nnetwork: { allow: [plain.example] }\n')
  const args = {
    ...{ policy: [policyFile], command: [process.execPath, '-e', client] as const, name: 'cli' },
    ...{ isolation: 'namespace' as const, dryRun: false, json: false, quiet: false },
    ...{ argv: [], script: '' },
  }
  const io = { stdout: sink, stderr: sink, env: {} }
  const ending = await runCommand(args, io, () => Promise.resolve(context))
  t.strictSame(ending, { code: 7 }, told)
  t.match(told, /macOS has no isolation namespace: uid is used/)
  t.match(told, /evil\.example/, 'the denial is in the summary')
  t.strictSame(await registry.list(), [])
  const account = (await platform.listAccounts()).find(({ comment }) => comment === 'agentjail cli')
  t.match(account, { name: 'aj-cli' })

  const entry = `user:aj-cli allow list`
  await system.run(['/bin/chmod', '-R', '+a', entry, workspace])
  writeFileSync(
    join(stateDir, 'shared-cli.json'),
    JSON.stringify({ jail: 'aj-cli', shares: [{ entry, path: workspace, as: 'admin' }] }),
  )
  const owner = { pid: 1, start: 1, boot: 'another' }
  const dead = { v: 1, name: 'cli', uid: account?.uid, user: 'aj-cli', isolation: 'uid', owner }
  writeFileSync(join(stateDir, 'jails', 'cli.json'), JSON.stringify(dead))
  t.strictSame(await collectDead(context), { cleared: ['cli'], kept: [] })
  const { acls } = JSON.parse(readFileSync(stateFile, 'utf8')) as MacState
  t.notOk(Object.values(acls).flat().includes(entry), 'the workspace is taken back')
})
