import { execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createSocket } from 'node:dgram'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { doctorCommand } from '../lib/cli/commands/doctor.js'
import { type Diagnosis, checks, diagnose, renderDiagnoses } from '../lib/doctor/doctor.js'
import { findBrokenPolicies } from '../lib/doctor/policies.js'
import { needsRoot, type DoctorFacts } from '../lib/doctor/types.js'
import { defaultConfig } from '../lib/setup/config.js'
import { realSystem } from '../lib/system/real.js'
import { findTool, readDistro } from '../lib/system/tools.js'

const self = fileURLToPath(import.meta.url)
const exec = promisify(execFile)

if (process.getuid?.() !== 0) throw new Error('these tests need root')
// This file again, in namespaces of its own: what is broken below is broken only there.
if (process.argv[2] === 'ward') await ward(process.argv[3] ?? '')
else runTests()

const facts = (more: Partial<DoctorFacts> = {}): DoctorFacts => ({
  system: realSystem(),
  config: defaultConfig,
  distro: readDistro(),
  isRoot: true,
  findTool,
  released: Date.parse('2026-01-01T00:00:00Z'),
  askResolver: () => Promise.resolve(true),
  brokenPolicies: () => Promise.resolve([]),
  collect: () => Promise.resolve(),
  ...more,
})

interface Ward {
  readonly fresh: readonly Diagnosis[]
  readonly freshCode: number
  readonly fixed: readonly Diagnosis[]
  readonly fixedCode: number
  readonly broken: Readonly<Record<string, Diagnosis>>
}

/** One thing is broken at a time, for real; the doctor must see each. */
async function ward(dir: string): Promise<void> {
  const mount = (...args: string[]) => execFileSync('/usr/bin/mount', args)
  mount('-t', 'tmpfs', 'none', dir)
  execFileSync('/usr/bin/cp', ['-a', '/etc', `${dir}/etc`])
  mount('--bind', `${dir}/etc`, '/etc')
  for (const place of ['/run', '/var/lib', '/var/log', '/var/spool']) {
    mount('-t', 'tmpfs', 'none', place)
  }
  fs.rmSync('/etc/resolv.conf')
  fs.writeFileSync('/etc/resolv.conf', 'nameserver 127.0.0.53\n')
  execFileSync('/usr/sbin/ip', ['link', 'set', 'lo', 'up'])
  // A server that has no answer is one that answers.
  const resolver = createSocket('udp4').on('message', (query, from) => {
    const answer = Buffer.from(query)
    answer.writeUInt16BE(0x8185, 2)
    resolver.send(answer, from.port, from.address)
  })
  resolver.bind(53, '127.0.0.53')
  await once(resolver, 'listening')
  const doctor = async (fix: boolean): Promise<{ found: Diagnosis[]; code: number }> => {
    let text = ''
    const output = { write: (more: string) => (text += more) }
    const io = { stdout: output, stderr: process.stderr, env: {} }
    const code = await doctorCommand({ fix, json: true }, io)
    return { found: JSON.parse(text) as Diagnosis[], code }
  }
  const fresh = await doctor(false)
  const fixed = await doctor(true)

  const broken: Record<string, Diagnosis> = {}
  const look = async (title: string, name: string): Promise<void> => {
    const found = (await doctor(false)).found.find((one) => one.name === name)
    if (found) broken[title] = found
  }
  const withFile = async (path: string, text: string, title: string, name: string) => {
    const before = fs.existsSync(path) ? fs.readFileSync(path) : undefined
    fs.mkdirSync(join(path, '..'), { recursive: true })
    fs.writeFileSync(path, text)
    await look(title, name)
    if (before) fs.writeFileSync(path, before)
    else fs.rmSync(path)
  }
  const hiddenBy = async (path: string, cover: string, title: string, name: string) => {
    mount('--bind', cover, path)
    await look(title, name)
    execFileSync('/usr/bin/umount', [path])
  }
  fs.writeFileSync(`${dir}/loose`, '', { mode: 0o755 })
  fs.chmodSync(`${dir}/loose`, 0o777)
  fs.mkdirSync(`${dir}/empty`)
  await hiddenBy('/usr/sbin/nft', `${dir}/loose`, 'a tool that others can write', 'tools')
  await hiddenBy('/proc/sys/kernel/seccomp', `${dir}/empty`, 'no seccomp', 'seccomp')
  await hiddenBy('/sys/fs/cgroup', `${dir}/empty`, 'no cgroups', 'cgroups')
  const passwd = fs.readFileSync('/etc/passwd', 'utf8')
  const stranger = 'eve:x:1900000007:100:Eve:/home/eve:/bin/sh\n'
  await withFile('/etc/passwd', passwd + stranger, 'a stranger in the range', 'accounts')
  await withFile('/etc/subuid', 'eve:1899999000:65536\n', 'a subordinate range in it', 'accounts')
  await withFile('/etc/resolv.conf', 'search x\n', 'no nameserver', 'dns')
  const two = 'nameserver 127.0.0.53\nnameserver 127.0.0.54\n'
  await withFile('/etc/resolv.conf', two, 'a nameserver without an answer', 'dns')
  const configured = 'upstreams: [127.0.0.54]\n'
  await withFile('/etc/agentjail/config.yaml', configured, 'a silent upstream', 'dns')
  await withFile('/etc/agentjail/config.yaml', 'colour: red\n', 'a bad configuration', 'config')
  await withFile('/etc/ufw/ufw.conf', 'ENABLED=yes\n', 'ufw', 'firewalls')
  fs.mkdirSync('/run/firewalld')
  await look('firewalld', 'firewalls')
  fs.rmdirSync('/run/firewalld')
  execFileSync('/usr/sbin/nft', ['add', 'rule', 'inet', 'agentjail', 'output', 'accept'])
  await look('a rule too many in the deny', 'setup')
  execFileSync('/usr/sbin/nft', ['flush', 'ruleset'])
  await look('a flush', 'setup')
  await doctor(true)
  execFileSync('/usr/bin/systemctl', ['disable', 'agentjail-deny.service'], { stdio: 'ignore' })
  await look('the unit disabled', 'setup')
  const jail = '/run/agentjail/jails/bot.json'
  await withFile(jail, '{"v":1,', 'an entry that cannot be read', 'leftovers')
  fs.writeFileSync(jail, '{"v":1,')
  const cleared = (await doctor(true)).found.find(({ name }) => name === 'leftovers')
  if (cleared) broken['cleared'] = cleared
  const sleeper = spawn('/usr/bin/sleep', ['60'], { uid: 1_900_000_003, gid: 65_534, cwd: '/' })
  await once(sleeper, 'spawn')
  await look('a process without a jail', 'leftovers')
  sleeper.kill('SIGKILL')
  await once(sleeper, 'exit')

  resolver.close()
  const result: Ward = {
    fresh: fresh.found,
    freshCode: fresh.code,
    fixed: fixed.found,
    fixedCode: fixed.code,
    broken,
  }
  process.stdout.write(JSON.stringify(result))
}

function runTests(): void {
  const base = fs.mkdtempSync('/root/agentjail-test-')
  t.teardown(() => {
    fs.rmSync(base, { recursive: true })
  })

  t.test('doctor: sees what is broken, mends what is safe, on the real kernel', async (t) => {
    const flags = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc']
    const { stdout } = await exec(
      '/usr/bin/unshare',
      [...flags, process.execPath, self, 'ward', base],
      {
        timeout: 120_000,
        maxBuffer: 1 << 24,
      },
    )
    const { fresh, freshCode, fixed, fixedCode, broken } = JSON.parse(stdout) as Ward
    t.equal(freshCode, 1)
    const failed = fresh.filter(({ state }) => state === 'fail').map(({ name }) => name)
    t.strictSame(failed, ['setup'], 'on a fresh machine only the set-up is missing')
    t.equal(fixedCode, 0, 'and --fix does it')
    t.match(
      fixed.find(({ name }) => name === 'setup'),
      { state: 'ok', repaired: true },
    )
    t.strictSame(
      fixed.map(({ name }) => name),
      checks.map(({ name }) => name),
      'no check is missing',
    )
    const rows: [string, 'warn' | 'fail', RegExp][] = [
      ['a tool that others can write', 'fail', /nft is writable by others/],
      ['no seccomp', 'fail', /no seccomp filters/],
      ['no cgroups', 'warn', /pids, memory, cpu/],
      ['a stranger in the range', 'fail', /others have ids of .*: eve/],
      ['a subordinate range in it', 'fail', /eve \(by \/etc\/subuid\)/],
      ['no nameserver', 'warn', /no nameserver/],
      ['a nameserver without an answer', 'warn', /^no answer from 127\.0\.0\.54$/],
      ['a silent upstream', 'fail', /^no answer from 127\.0\.0\.54: no granted name/],
      ['a bad configuration', 'fail', /config\.yaml:1:1: unknown key "colour"/],
      ['ufw', 'warn', /^ufw in use/],
      ['firewalld', 'warn', /^firewalld in use/],
      ['a rule too many in the deny', 'fail', /static deny in force/],
      ['a flush', 'fail', /static deny in force/],
      ['the unit disabled', 'warn', /static deny at boot/],
      ['an entry that cannot be read', 'warn', /the entry of bot cannot be read/],
      ['a process without a jail', 'fail', /process \d+ \(sleep\) of uid 1900000003/],
    ]
    t.match(broken['cleared'], { state: 'ok', repaired: true }, 'leftovers are collected')
    for (const [title, state, detail] of rows) {
      t.equal(broken[title]?.state, state, title)
      t.match(broken[title]?.detail, detail)
      t.ok(broken[title]?.fix, 'says what to do')
      t.ok(broken[title]?.why, 'says why it matters')
    }
  })

  t.test('doctor: what no namespace can break', async (t) => {
    const only = async (name: string, more: Partial<DoctorFacts>) =>
      (await diagnose(facts(more), { fix: false, only: [name] }))[0]
    t.match(await only('clock', { released: Date.now() + 1e9 }), {
      state: 'fail',
      fix: /timedatectl/,
    })
    t.match(await only('clock', {}), { state: 'ok' })
    const none = { findTool: () => ({ state: 'missing' }) as const }
    t.match(await only('tools', none), { state: 'fail', fix: /nftables.*bubblewrap/ })
    t.match(await only('firewall', none), { state: 'fail', fix: 'sudo agentjail setup' })
    t.match(await only('privilege', { isRoot: false, ...none }), {
      state: 'fail',
      detail: 'neither root nor sudo',
    })
    t.match(await only('leftovers', { isRoot: false }), {
      state: 'warn',
      fix: 'sudo agentjail doctor',
    })
    const thrown = () => Promise.reject(new Error('cannot look'))
    t.match(await only('policies', { brokenPolicies: thrown }), {
      state: 'fail',
      detail: 'cannot look',
    })
    const mistake = join(base, 'policies')
    fs.mkdirSync(mistake)
    t.match(await findBrokenPolicies(mistake), [/there is no policy in/])
    fs.writeFileSync(join(mistake, 'x.yaml'), 'version: 1\nname: x\nnetwork: {allow: ["*"]}\n')
    const brokenPolicies = () => findBrokenPolicies(mistake)
    t.match(await only('policies', { brokenPolicies }), {
      state: 'fail',
      detail: /x\.yaml:3:\d+: "\*" grants/,
    })
  })

  t.test('doctor: a repair that fails is told', async (t) => {
    const collect = () => Promise.reject(new Error('no space'))
    const state = join(base, 'state')
    fs.mkdirSync(join(state, 'jails'), { recursive: true })
    fs.writeFileSync(join(state, 'jails/bot.json'), 'x')
    const uidRange = { first: 1_990_000_000, last: 1_990_000_999 }
    const config = { ...defaultConfig, stateDir: state, uidRange }
    const [found] = await diagnose(facts({ collect, config }), { fix: true, only: ['leftovers'] })
    t.match(found, { state: 'warn', detail: /cannot be read; the repair failed: no space/ })
    t.equal(found?.repaired, undefined)
  })

  t.test('doctor: for people', (t) => {
    const text = renderDiagnoses(
      [
        { name: 'a', state: 'ok', detail: 'fine', why: 'x' },
        {
          name: 'bcd',
          state: 'fail',
          detail: 'bad\nworse\u001b[2J',
          why: 'it matters',
          fix: 'do this',
        },
        { name: 'e', state: 'ok', detail: 'now fine', why: 'x', repaired: true },
      ],
      false,
    )
    t.equal(
      text,
      `ok    a    fine
FAIL  bcd  bad
           worse\\x1b[2J
           why: it matters
           fix: do this
ok    e    now fine (repaired)
1 failed, 0 with a warning
`,
    )
    const unseen = { name: 'f', why: 'x', ...needsRoot('that') }
    t.equal(
      renderDiagnoses([{ name: 'a', state: 'ok', detail: 'fine', why: 'x' }, unseen], false),
      `ok    a  fine
warn  f  that can only be seen by root
nothing failed; 1 not looked at: sudo agentjail doctor
`,
      'what was not looked at is not called ready',
    )
    t.end()
  })
}
