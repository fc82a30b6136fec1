import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { ensureAccount, findAccount } from '../lib/account/linux.js'
import { setupCommand } from '../lib/cli/commands/setup.js'
import { uninstallCommand } from '../lib/cli/commands/uninstall.js'
import type { CommandIo } from '../lib/cli/io.js'
import type { JailError } from '../lib/errors.js'
import { parseJailName } from '../lib/plan/names.js'
import { parseConfig } from '../lib/setup/config-parse.js'
import { defaultConfig, defaultConfigText, loadConfig } from '../lib/setup/config.js'
import { findFirewall } from '../lib/setup/firewall.js'
import { setupSteps } from '../lib/setup/setup.js'
import { renderOpenrc } from '../lib/setup/units.js'
import { installLine, packagesFor, parseOsRelease, requiredTools } from '../lib/system/distro.js'
import { realSystem } from '../lib/system/real.js'
import { findTool, findTools, readDistro } from '../lib/system/tools.js'
import type { System } from '../lib/system/types.js'

const exec = promisify(execFile)

const self = fileURLToPath(import.meta.url)

if (process.getuid?.() !== 0) throw new Error('these tests need root')
// This file again, in namespaces of its own: the machine's accounts, files and firewall stay as they are.
if (process.argv[2] === 'life') await liveThrough(process.argv[3] ?? '')
else runTests()

interface Life {
  readonly first: string
  readonly again: string
  readonly verify: { readonly code: number; readonly text: string }
  readonly enabled: boolean
  readonly byHand: string
  readonly gate: string
  readonly denied: string
  readonly mended: string
  readonly refusedWhileRunning: string
  readonly left: readonly string[]
  readonly rulesetBefore: string
  readonly rulesetAfter: string
  readonly removal: string
  readonly secondRemoval: string
  /** Without `--purge`. */
  readonly kept: readonly string[]
}

/** Sets up, checks, uses, removes; tells what it saw as JSON. */
async function liveThrough(dir: string): Promise<void> {
  const mount = (...args: string[]) => execFileSync('/usr/bin/mount', args)
  mount('-t', 'tmpfs', 'none', dir)
  execFileSync('/usr/bin/cp', ['-a', '/etc', `${dir}/etc`])
  mount('--bind', `${dir}/etc`, '/etc')
  for (const place of ['/run', '/var/lib', '/var/log', '/var/spool'])
    mount('-t', 'tmpfs', 'none', place)
  execFileSync('/usr/sbin/ip', ['link', 'set', 'lo', 'up'])

  const nft = (...args: string[]) => execFileSync('/usr/sbin/nft', args, { encoding: 'utf8' })
  const snapshot = () =>
    new Set(
      ['/etc', '/run', '/var/lib', '/var/log', '/var/spool'].flatMap((top) =>
        fs
          .readdirSync(top, { recursive: true, withFileTypes: true })
          .map((entry) => {
            const path = join(entry.parentPath, entry.name)
            const text = entry.isFile() ? fs.readFileSync(path, 'base64') : ''
            return `${path} ${text}`
          })
          // Back-up copies and the lock of shadow's tools; what systemd's tools note for themselves.
          .filter(
            (line) =>
              !/^\/run\/systemd|^\/etc\/(?:passwd-|shadow-|group-|gshadow-|subuid-|subgid-|\.pwd\.lock) /.test(
                line,
              ),
          ),
      ),
    )
  const told = async (work: (io: CommandIo) => Promise<number>): Promise<string> => {
    let text = ''
    const output = { write: (more: string) => (text += more) }
    const code = await work({ stdout: output, stderr: output, env: {} }).catch((error: unknown) => {
      text += String(error)
      return 'refused'
    })
    return `${text}${String(code)}`
  }
  // The copy of a machine where agentjail is set up already begins as one where it is not.
  await told((io) => uninstallCommand({ purge: true }, io))
  const before = snapshot()
  const rulesetBefore = nft('list', 'ruleset')
  const first = await told((io) => setupCommand({ print: false }, io))
  const again = await told((io) => setupCommand({ print: false }, io))
  const unit = '/etc/systemd/system/agentjail-deny.service'
  const verified = spawnSync('/usr/bin/systemd-analyze', ['verify', unit], { encoding: 'utf8' })
  const enabled = fs.existsSync('/etc/systemd/system/sysinit.target.wants/agentjail-deny.service')
  // As in a container: nothing there would start a unit.
  mount('--bind', '/dev/null', '/usr/bin/systemctl')
  const byHand = await told((io) => setupCommand({ print: false }, io))
  execFileSync('/usr/bin/umount', ['/usr/bin/systemctl'])
  const gate =
    fs
      .readFileSync('/etc/passwd', 'utf8')
      .split('\n')
      .filter((l) => l.startsWith('agentjail'))[0] ?? ''

  // A process of a reserved uid, and one of nobody's business, to the same listener.
  const listener = createServer((socket) => socket.end()).listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address() as AddressInfo
  const script = `require('net').connect(${String(port)}, '127.0.0.1').on('error', (e) => console.log(e.code)).on('connect', () => { console.log('open'); process.exit() })`
  const connectAs = async (uid: number) =>
    (
      await exec(process.execPath, ['-e', script], { uid, gid: uid, cwd: '/', timeout: 10_000 })
    ).stdout.trim()
  const denied = `${await connectAs(1_900_000_001)} ${await connectAs(65_534)}`

  // As a flush or an edit by hand leaves it; then `setup` again.
  nft('flush', 'chain', 'inet', 'agentjail', 'output')
  const mended = `${await connectAs(1_900_000_001)} ${await told((io) => setupCommand({ print: false }, io))} ${await connectAs(1_900_000_001)}`

  const sleeper = spawn('/usr/bin/sleep', ['60'], {
    uid: 1_900_000_002,
    gid: 1_900_000_002,
    cwd: '/',
  })
  await once(sleeper, 'spawn')
  const refusedWhileRunning = await told((io) => uninstallCommand({ purge: true }, io))
  sleeper.kill('SIGKILL')
  await once(sleeper, 'exit')

  const system = realSystem()
  const request = { jail: parseJailName('bot'), callerUid: 0 }
  const account = await findAccount(system, defaultConfig, request)
  await ensureAccount(
    system,
    defaultConfig,
    { useradd: '/usr/sbin/useradd', userdel: '/usr/sbin/userdel' },
    account,
    request.jail,
  )
  fs.mkdirSync('/var/spool/cron/crontabs', { recursive: true })
  fs.writeFileSync('/var/spool/cron/crontabs/aj-bot', '@reboot true\n')
  const removal = await told((io) => uninstallCommand({ purge: true }, io))
  fs.rmSync('/var/spool/cron', { recursive: true, force: false })
  const secondRemoval = await told((io) => uninstallCommand({ purge: true }, io))
  await told((io) => setupCommand({ print: false }, io))
  fs.appendFileSync('/etc/agentjail/config.yaml', '# mine\n')
  fs.writeFileSync('/var/log/agentjail/bot.jsonl', '')
  await told((io) => uninstallCommand({ purge: false }, io))
  const kept = ['/etc/agentjail/config.yaml', '/var/log/agentjail/bot.jsonl'].filter((path) =>
    fs.existsSync(path),
  )
  await told((io) => uninstallCommand({ purge: true }, io))
  const after = snapshot()
  const left = [...before, ...after]
    .filter((line) => before.has(line) !== after.has(line))
    .map((line) => line.slice(0, 120))
  listener.close()
  const life: Life = {
    first,
    again,
    verify: { code: verified.status ?? -1, text: verified.stdout + verified.stderr },
    enabled,
    byHand,
    gate,
    denied,
    mended,
    refusedWhileRunning,
    left,
    rulesetBefore,
    rulesetAfter: nft('list', 'ruleset'),
    removal,
    secondRemoval,
    kept,
  }
  process.stdout.write(JSON.stringify(life))
}

function thrownBy(run: () => unknown): JailError | undefined {
  try {
    run()
    return undefined
  } catch (error) {
    return error as JailError
  }
}

function runTests(): void {
  // Under root's own home: the directories above a program count, and /tmp is everybody's.
  const base = fs.mkdtempSync('/root/agentjail-test-')
  t.teardown(() => {
    fs.rmSync(base, { recursive: true })
  })

  t.test('tools: only what root alone can write counts', (t) => {
    const safe = join(base, 'safe')
    const loose = join(base, 'loose')
    for (const dir of [safe, loose]) fs.mkdirSync(dir, { mode: 0o755 })
    for (const name of ['tool', 'foreign', 'writable']) {
      fs.writeFileSync(join(safe, name), '', { mode: 0o755 })
    }
    fs.writeFileSync(join(loose, 'victim'), '', { mode: 0o755 })
    fs.chmodSync(loose, 0o777)
    fs.chownSync(join(safe, 'foreign'), 1000, 1000)
    fs.chmodSync(join(safe, 'writable'), 0o775)
    fs.symlinkSync('tool', join(safe, 'linked'))
    fs.symlinkSync('../loose/victim', join(safe, 'astray'))
    fs.symlinkSync('loop', join(safe, 'loop'))
    const find = (name: string, directories: string[]) => findTool(name, { directories })
    t.match(find('tool', [safe]), { state: 'found', path: join(safe, 'tool') })
    t.match(find('linked', [safe]), { state: 'found' })
    t.match(find('foreign', [safe]), { state: 'unsafe', problem: /must belong to root/ })
    t.match(find('writable', [safe]), { state: 'unsafe', problem: /writable by others/ })
    t.match(find('astray', [safe]), { state: 'unsafe', problem: /loose is writable/ })
    t.match(find('loop', [safe]), { state: 'unsafe', problem: /too many links/ })
    t.match(find('victim', [loose]), { state: 'unsafe' })
    t.match(find('absent', [safe, loose]), { state: 'missing' })
    const error = thrownBy(() => findTools(['nft', 'bwrap'], { directories: [loose] }))
    t.match(error, { code: 'TOOL_MISSING', message: 'nft, bwrap are not installed' })
    t.match(error?.hint, 'run `sudo agentjail setup`, or: ')
    t.equal(findTools(['tool'], { directories: [safe] }).get('tool'), join(safe, 'tool'))
    const path = process.env['PATH']
    process.env['PATH'] = `${loose}:${path ?? ''}`
    t.throws(() => findTools(['victim']), { code: 'TOOL_MISSING' }, '$PATH is not asked')
    process.env['PATH'] = path
    t.end()
  })

  t.test('distributions: the exact line of each', (t) => {
    const tools = ['nft', 'bwrap', 'setpriv', 'nsenter']
    const rows = [
      [
        'ID=debian',
        'sudo apt-get install --yes --no-install-recommends nftables bubblewrap util-linux',
      ],
      [
        'ID=linuxmint\nID_LIKE="ubuntu debian"',
        'sudo apt-get install --yes --no-install-recommends nftables bubblewrap util-linux',
      ],
      ['ID=fedora', 'sudo dnf install --assumeyes nftables bubblewrap util-linux'],
      [
        'ID="rocky"\nID_LIKE="rhel centos fedora"',
        'sudo dnf install --assumeyes nftables bubblewrap util-linux',
      ],
      ['ID=alpine', 'sudo apk add nftables bubblewrap setpriv util-linux-misc'],
      ['ID=arch', 'sudo pacman --sync --needed --noconfirm nftables bubblewrap util-linux'],
      [
        'ID=opensuse-leap\nID_LIKE="suse opensuse"',
        'sudo zypper --non-interactive install nftables bubblewrap util-linux',
      ],
      ['ID=plan9', 'install these with your package manager: nftables bubblewrap util-linux'],
    ] as const
    for (const [text, line] of rows) t.equal(installLine(parseOsRelease(text), tools), line)
    t.end()
  })

  t.test('packages: what matters is that the tools are there', async (t) => {
    // apt fails for another package's sake, too: one that was half configured before.
    const failed = { code: 100, stdout: '', stderr: 'E: dpkg returned an error code (1)' }
    const system = { ...realSystem(), run: () => Promise.resolve(failed) } as unknown as System
    const [packages] = await setupSteps({ system, config: defaultConfig, distro: readDistro() })
    t.equal(packages?.title, 'system packages')
    await t.resolves(() => packages?.apply() ?? Promise.reject(new Error('no step')))
  })

  t.test('distributions: Debian has every package that is named for it', async (t) => {
    const debian = parseOsRelease('ID=debian')
    const packages = packagesFor(debian, [
      ...requiredTools,
      'sudo',
      'stty',
      'iptables',
      'ipset',
      'getent',
      'mount',
    ])
    const { stdout } = await exec('/usr/bin/apt-cache', ['policy', ...packages], {
      timeout: 30_000,
    })
    const known = [...stdout.matchAll(/^(\S+):$/gm)].map(([, name]) => name)
    t.strictSame(known.sort(), [...packages].sort())
  })

  t.test('setup and uninstall, for real, in namespaces of their own', async (t) => {
    const dir = join(base, 'life')
    fs.mkdirSync(dir)
    const { stdout } = await exec(
      '/usr/bin/unshare',
      [
        '--mount',
        '--net',
        '--pid',
        '--fork',
        '--kill-child',
        '--mount-proc',
        process.execPath,
        self,
        'life',
        dir,
      ],
      { timeout: 90_000, maxBuffer: 1 << 24 },
    )
    const life = JSON.parse(stdout) as Life
    t.match(life.first, /ready: agentjail run[^]*0$/)
    t.match(life.first, /done {7}static deny in force/)
    t.notMatch(life.again, /^done/m, 'the second time there is nothing to do')
    t.strictSame(life.verify, { code: 0, text: '' }, 'systemd itself accepts the unit')
    t.ok(life.enabled, 'and starts it at boot')
    t.match(
      life.byHand,
      /^by hand {4}static deny at boot: no systemd or OpenRC here: .*: \S*nft -f \S+static-deny\.nft$[^]*ready[^]*0$/m,
      'where there is no init system, its owner is told what to do',
    )
    t.match(
      life.gate,
      /^agentjail-gate:x:\d{1,3}:\d{1,3}:agentjail-gate:\/nonexistent:\/usr\/sbin\/nologin$/,
    )
    t.equal(life.denied, 'ECONNREFUSED open', 'reserved uid refused, another let through')
    t.match(
      life.mended,
      /^open [^]*done {7}static deny in force[^]* ECONNREFUSED$/,
      'what is missing is put back',
    )
    t.match(life.refusedWhileRunning, 'a jail is running: process')
    t.match(life.refusedWhileRunning, 'sleep) of uid 1900000002')
    t.match(life.removal, /removed user aj-bot\nremoved user agentjail-gate\n[^]*0$/)
    t.strictSame(life.left, [], 'every file as it was before')
    t.equal(life.rulesetAfter, life.rulesetBefore)
    t.equal(life.secondRemoval, '0', 'nothing left to remove')
    t.equal(life.kept.length, 2, 'logs and a changed configuration stay without --purge')
  })

  t.test('OpenRC: the script is one that a shell reads', async (t) => {
    const path = join(base, 'openrc')
    fs.writeFileSync(
      path,
      renderOpenrc(findFirewall({ system: realSystem(), config: defaultConfig }).load),
    )
    await exec('/bin/sh', ['-n', path])
    const order = execFileSync('/bin/sh', [
      '-c',
      `before() { echo "$@"; }; need() { :; }; after() { :; }; . ${path}; depend`,
    ])
    t.match(order.toString(), /\bnet\b.*\bdcron\b/, 'before the network and cron')
  })

  t.test('config: absent, all comments, all set', async (t) => {
    const path = join(base, 'config.yaml')
    t.strictSame(await loadConfig(path), defaultConfig)
    fs.writeFileSync(path, defaultConfigText, { mode: 0o644 })
    t.strictSame(await loadConfig(path), defaultConfig, 'what setup writes changes nothing')
    const uncommented = defaultConfigText.replace(
      /^# (?=(?:uid|ups|sta|log|hom|gat)[A-Za-z]+: )/gm,
      '',
    )
    fs.writeFileSync(path, uncommented)
    t.strictSame(await loadConfig(path), {
      ...defaultConfig,
      upstreams: [
        { address: '192.0.2.53', port: 53 },
        { address: '192.0.2.54', port: 5353 },
        { address: '2001:db8::53', port: 53 },
      ],
    })
    fs.chmodSync(path, 0o666)
    await t.rejects(loadConfig(path), { code: 'POLICY_UNSAFE' }, 'others can write it')
    fs.chmodSync(path, 0o644)
    fs.chownSync(path, 1000, 1000)
    await t.rejects(loadConfig(path), { code: 'POLICY_UNSAFE' }, "not root's")
    fs.unlinkSync(path)
    fs.symlinkSync('/etc/hostname', path)
    await t.rejects(loadConfig(path), { code: 'STATE' }, 'a link')
  })

  t.test('config: every mistake with its place, all at once', (t) => {
    const rows = [
      ['uidRange: 5-10', 'c:1:11: uidRange lies within 100000-2147352575'],
      // Below macOS's UID_MAX, 2147483647, too.
      ['uidRange: 2147483600-2147483646', 'c:1:11: uidRange lies within 100000-2147352575'],
      ['uidRange: 200000-200003', 'c:1:11: uidRange holds at least 16 ids, first before last'],
      ['uidRange: lots', 'c:1:11: uidRange is FIRST-LAST, e.g. 1900000000-1900099999'],
      ['logDir: ../x', 'c:1:9: an absolute path of plain letters, e.g. /var/log/agentjail'],
      ['stateDir: /', 'c:1:11: an absolute path of plain letters, e.g. /var/log/agentjail'],
      ['homeDir: /a/../b', 'c:1:10: an absolute path of plain letters, e.g. /var/log/agentjail'],
      ['gateUser: root', 'c:1:11: gateUser is the name of an account, e.g. agentjail-gate'],
      [
        'pfAnchor: com.apple/a/b',
        'c:1:11: pfAnchor is com.apple/agentjail, or one name of at most 15 letters, digits, dots and hyphens',
      ],
      ['upstreams: 1.1.1.1', "c:1:12: upstreams is a list, e.g. [192.0.2.53, '[2001:db8::1]:53']"],
      [
        "upstreams: ['dns.example']",
        "c:1:13: a resolver is an address with or without a port, e.g. '192.0.2.53:53'",
      ],
      [
        "upstreams: ['192.0.2.1:0']",
        "c:1:13: a resolver is an address with or without a port, e.g. '192.0.2.53:53'",
      ],
      ['- a', 'c:1:1: a configuration is a list of `key: value`'],
      [
        'colour: red\ngateUser: 7x',
        'c:1:1: unknown key "colour"; known: uidRange, stateDir, logDir, homeDir, gateUser, upstreams, pfAnchor\n' +
          'c:2:11: gateUser is the name of an account, e.g. agentjail-gate',
      ],
      ['logDir: /a/b\nlogDir: /a/c', 'c:2:1: Map keys must be unique'],
    ] as const
    for (const [text, message] of rows) {
      const error = thrownBy(() => parseConfig(text, 'c'))
      t.equal(error?.message, message)
      t.equal(error?.code, 'CONFIG_INVALID')
      t.equal(error?.exit, 2)
    }
    t.end()
  })
}
