import { execFile } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { JailError } from '../lib/errors.js'
import { parseConfig } from '../lib/setup/config-parse.js'
import { defaultConfig, defaultConfigText, loadConfig } from '../lib/setup/config.js'
import { installLine, packagesFor, parseOsRelease, requiredTools } from '../lib/system/distro.js'
import { findTool, findTools } from '../lib/system/tools.js'

const exec = promisify(execFile)

if (process.getuid?.() !== 0) throw new Error('these tests need root')
runTests()

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

  t.test('distributions: Debian has every package that is named for it', async (t) => {
    const debian = parseOsRelease('ID=debian')
    const packages = packagesFor(debian, [
      ...requiredTools,
      'setfacl',
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
      ['uidRange: 200000-200003', 'c:1:11: uidRange holds at least 16 ids, first before last'],
      ['uidRange: lots', 'c:1:11: uidRange is FIRST-LAST, e.g. 1900000000-1900099999'],
      ['logDir: ../x', 'c:1:9: an absolute path of plain letters, e.g. /var/log/agentjail'],
      ['stateDir: /', 'c:1:11: an absolute path of plain letters, e.g. /var/log/agentjail'],
      ['homeDir: /a/../b', 'c:1:10: an absolute path of plain letters, e.g. /var/log/agentjail'],
      ['gateUser: root', 'c:1:11: gateUser is the name of an account, e.g. agentjail-gate'],
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
        'c:1:1: unknown key "colour"; known: uidRange, stateDir, logDir, homeDir, gateUser, upstreams\n' +
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
