/**
 * On a real Mac, as root: makes the account, loads, probes from inside a jail, and removes everything again.
 * `sudo node dist/test/macos/real-mac.js`. Run by .github/workflows/macos.yml; changes pf and accounts.
 */
import { spawnSync } from 'node:child_process'
import { chownSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { findMacAccount, listMacAccounts, removeMacAccount } from '../../lib/account/macos.js'
import { pfBackend } from '../../lib/backend/pf/index.js'
import { launchMac } from '../../lib/launch/macos/launch.js'
import { compilePlan } from '../../lib/plan/compile.js'
import { parseJailName } from '../../lib/plan/names.js'
import type { Facts, Settings } from '../../lib/plan/types.js'
import { hostResolvers } from '../../lib/session/host.js'
import { withLock } from '../../lib/session/lock.js'
import { spawnMacGate } from '../../lib/session/macos/gate.js'
import { darwinSystem } from '../../lib/session/macos/system.js'
import { MacWarden } from '../../lib/session/macos/warden.js'
import { openRegistry } from '../../lib/session/registry.js'
import { realSystem } from '../../lib/system/real.js'
import { cidrGrant, grant, policy } from './policies.js'
import { reserved } from './rulesets.js'

if (process.platform !== 'darwin' || process.getuid?.() !== 0)
  throw new Error('this needs a Mac, and root')

const settings: Settings = {
  uidRange: reserved,
  stateDir: '/var/run/agentjail',
  logDir: '/var/log/agentjail',
  homeDir: '/var/agentjail/home',
  gateUser: 'agentjail-gate',
}
const system = darwinSystem(realSystem())
const ownAddresses = (): string[] =>
  Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address))
const warn = (text: string): void => {
  console.log(`note: ${text}`)
}
const backend = pfBackend({
  system,
  stateDir: settings.stateDir,
  range: reserved,
  ownAddresses,
  warn,
})
const jail = parseJailName('real-mac')
const cwd = mkdtempSync('/private/tmp/agentjail-real-')
chownSync(cwd, Number(process.env['SUDO_UID'] ?? 501), 20)
let failures = 0

mkdirSync(join(settings.stateDir, 'jails'), { recursive: true, mode: 0o700 })
const before = pf()
try {
  await probes()
} finally {
  for (const account of await listMacAccounts(system))
    await removeMacAccount(system, settings, account)
  await backend.uninstall()
  rmSync(cwd, { recursive: true })
}
check('pf is as before', pf() === before, `${before}\n---\n${pf()}`)
process.exitCode = failures === 0 ? 0 : 1

async function probes(): Promise<void> {
  const curl = [
    '/usr/bin/curl',
    '--silent',
    '--show-error',
    '--max-time',
    '20',
    '--output',
    '/dev/null',
  ] as const
  const direct = [...curl, '--noproxy', '*'] as const
  const cases: [string, readonly [string, ...string[]], (code: number) => boolean][] = [
    ['a granted name, through the gate', [...curl, 'https://example.com/'], (code) => code === 0],
    ['a name that is not granted', [...curl, 'https://www.iana.org/'], (code) => code !== 0],
    ['a granted address, through the kernel', [...direct, 'http://1.1.1.1/'], (code) => code === 0],
    ['another port of it', [...direct, 'https://1.1.1.1/'], (code) => code !== 0],
    ['another address', [...direct, 'http://8.8.8.8/'], (code) => code !== 0],
    [
      'the system resolver',
      ['/usr/bin/dscacheutil', '-q', 'host', '-a', 'name', 'example.com'],
      () => true,
    ],
    [
      'DNS to anybody',
      ['/usr/bin/dig', '+time=2', '+tries=1', '@8.8.8.8', 'example.com'],
      (code) => code !== 0,
    ],
    ['ping', ['/sbin/ping', '-c', '1', '-t', '3', '1.1.1.1'], (code) => code !== 0],
    ['traceroute', ['/usr/sbin/traceroute', '-m', '1', '1.1.1.1'], (code) => code !== 0],
    ['sudo', ['/usr/bin/sudo', '-n', 'true'], (code) => code !== 0],
    ["the caller's files", ['/bin/ls', '/Users'], (code) => code !== 0],
    ['the workspace', ['/usr/bin/touch', join(cwd, 'x')], () => true],
    ['exit codes', ['/bin/sh', '-c', 'exit 42'], (code) => code === 42],
    ['its own uid', ['/usr/bin/id', '-u'], (code) => code === 0],
  ]
  for (const [name, command, fits] of cases) {
    const code = await run(command)
    check(name, fits(code), `exit code ${String(code)}`)
  }
  const others = spawnSync('/usr/bin/curl', [
    '--silent',
    '--max-time',
    '20',
    '--output',
    '/dev/null',
    'https://www.iana.org/',
  ])
  check('other users are not touched', others.status === 0, String(others.status))
}

async function run(command: readonly [string, ...string[]]): Promise<number> {
  const account = await findMacAccount(system, settings, {
    jail,
    callerUid: Number(process.env['SUDO_UID'] ?? 501),
  })
  const facts: Facts = {
    platform: 'darwin',
    settings,
    account,
    resolvers: await hostResolvers(system),
    hostAddresses: ownAddresses(),
    caller: { uid: Number(process.env['SUDO_UID'] ?? 501), gid: 20 },
    callerEnv: {},
    nodePath: process.execPath,
    protect: [],
    hostName: 'mac',
  }
  const given = policy(jail, {
    grants: [grant('g1', 'example.com')],
    cidrs: [cidrGrant('c1', '1.1.1.1', 80)],
  })
  const request = { jail, command, cwd, isolation: 'uid', policies: [] } as unknown as Parameters<
    typeof compilePlan
  >[2]
  const parts = {
    system,
    settings,
    registry: openRegistry(system, settings.stateDir),
    backend,
    openGate: spawnMacGate,
    launch: (launch: Parameters<typeof launchMac>[1]) => launchMac(system, launch),
    openAudit: () =>
      Promise.resolve({
        write: () => undefined,
        drop: () => undefined,
        close: () => Promise.resolve(),
      }),
    lock: <T>(work: () => Promise<T>) => withLock({ system, config: settings }, work),
  }
  const events = { onDecisions: () => undefined, onNotice: warn, onRunning: () => undefined }
  const ending = await new MacWarden(parts, compilePlan(given, facts, request), facts, events).run()
  return 'code' in ending ? ending.code : 128
}

function check(name: string, ok: boolean, detail: string): void {
  console.log(`${ok ? 'ok    ' : 'NOT OK'} ${name}${ok ? '' : `: ${detail}`}`)
  if (!ok) failures++
}

/** The main ruleset, agentjail's anchor, and whether pf is on. */
function pf(): string {
  const show = (...args: string[]): string =>
    spawnSync('/sbin/pfctl', ['-q', ...args], { encoding: 'utf8' }).stdout
  const status = /^Status: \w+/m.exec(show('-s', 'info'))?.[0] ?? ''
  return [
    status,
    show('-s', 'rules'),
    show('-s', 'nat'),
    show('-a', 'com.apple/agentjail', '-s', 'rules'),
  ].join('\n')
}
