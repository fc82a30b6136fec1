/** Service users against the modelled directory, which refuses, lies and hangs as the real one does. */
import t from 'tap'
import {
  ensureMacAccount,
  ensureMacGateUser,
  findMacAccount,
  listMacAccounts,
  removeMacAccount,
} from '../../lib/account/macos.js'
import { parseRecord } from '../../lib/account/dscl.js'
import { callerHome } from '../../lib/session/host.js'
import { macPlatform } from '../../lib/session/macos/platform.js'
import { parseJailName } from '../../lib/plan/names.js'
import type { Settings } from '../../lib/plan/types.js'
import { FakeMac } from './model/system.js'
import { reserved } from './rulesets.js'

const settings: Settings = {
  uidRange: reserved,
  stateDir: '/var/run/agentjail',
  logDir: '/var/log/agentjail',
  homeDir: '/var/agentjail/home',
  gateUser: 'agentjail-gate',
}
const jail = parseJailName('bot')
const request = { jail, callerUid: 501 }

async function make(mac: FakeMac, warnings: string[] = []): Promise<void> {
  const account = await findMacAccount(mac, settings, request)
  await ensureMacAccount(mac, settings, account, jail, (text) => warnings.push(text))
}

/** Accounts and files, without the note of the last uid. */
function snapshot({ state }: FakeMac): string {
  const files = Object.keys(state.files).filter((path) => !/last-uid$|home$/.test(path))
  return JSON.stringify({ users: state.users, groups: state.groups, files })
}

t.test('made, found again, removed', async (t) => {
  const mac = new FakeMac()
  const start = snapshot(mac)
  const warnings: string[] = []
  await make(mac, warnings)
  const user = mac.state.users['aj-bot']
  t.match(user, {
    UniqueID: ['1900000000'],
    PrimaryGroupID: ['1900000000'],
    UserShell: ['/usr/bin/false'],
    IsHidden: ['1'],
    Password: ['*'],
    NFSHomeDirectory: ['/var/agentjail/home/bot'],
    RealName: ['agentjail bot'],
  })
  t.match(mac.state.files['/var/agentjail/home/bot'], {
    kind: 'directory',
    mode: 0o700,
    uid: 1_900_000_000,
    gid: 1_900_000_000,
  })
  t.match(warnings, [/staff.*0700/])
  const again = await findMacAccount(mac, settings, request)
  t.match(again, { exists: true, uid: 1_900_000_000 })
  await make(mac)
  const [account] = await listMacAccounts(mac)
  if (account === undefined) throw new Error('not listed')
  mac.state.processes.push({ pid: 77, uid: account.uid, command: 'sleep' })
  await t.rejects(removeMacAccount(mac, settings, account), {
    code: 'ACCOUNT',
    message: /still has 1 process \(77\)/,
  })
  mac.state.processes = []
  await removeMacAccount(mac, settings, account)
  t.equal(snapshot(mac), start)
  const next = await findMacAccount(mac, settings, request)
  t.equal(next.uid, 1_900_000_001, 'a uid is not used again soon')
})

t.test("the gate's user", async (t) => {
  const mac = new FakeMac()
  t.strictSame(await ensureMacGateUser(mac, settings), { uid: 450, gid: 450 })
  t.strictSame(await ensureMacGateUser(mac, settings), { uid: 450, gid: 450 })
})

t.test('refusals name the way out, and leave nothing half made', async (t) => {
  const cases: [
    string,
    (mac: FakeMac) => void,
    { code: string; message: RegExp; hint?: RegExp },
  ][] = [
    [
      'the directory gives another uid',
      ({ state }) => (state.quirks.uidStolen = 502),
      {
        code: 'ACCOUNT',
        message: /UniqueID of aj-bot was set to 1900000000 and reads back as 502/,
        hint: /Full Disk Access/,
      },
    ],
    [
      'not root',
      ({ state }) => (state.euid = 501),
      { code: 'ACCOUNT', message: /no permission/, hint: /Full Disk Access/ },
    ],
    [
      'a stranger has the name',
      ({ state }) =>
        (state.users['aj-bot'] = {
          RecordName: ['aj-bot'],
          UniqueID: ['1900000007'],
          PrimaryGroupID: ['20'],
        }),
      { code: 'ACCOUNT', message: /not marked as agentjail's/, hint: /--user aj-bot/ },
    ],
    [
      'a person has the name',
      ({ state }) =>
        (state.users['aj-bot'] = {
          RecordName: ['aj-bot'],
          UniqueID: ['502'],
          RealName: ['agentjail bot'],
        }),
      { code: 'ACCOUNT', message: /outside the reserved range/ },
    ],
    [
      'the home is somebody else’s',
      ({ state }) =>
        (state.files['/var/agentjail/home/bot'] = {
          kind: 'symlink' as 'file',
          text: '',
          mode: 0o777,
          uid: 501,
          gid: 20,
        }),
      { code: 'ACCOUNT', message: /not its own 0700 directory/, hint: /chmod 0700/ },
    ],
  ]
  for (const [name, harm, error] of cases) {
    const mac = new FakeMac()
    harm(mac)
    const before = snapshot(mac)
    await t.rejects(make(mac), error, name)
    if (!name.includes('home')) t.equal(snapshot(mac), before, `${name}: nothing left`)
  }
  const mac = new FakeMac()
  await t.rejects(findMacAccount(mac, settings, { ...request, user: 'root' }), {
    message: /it is root/,
  })
  await t.rejects(findMacAccount(mac, settings, { ...request, user: 'admin' }), {
    message: /calling user/,
  })
  await t.rejects(findMacAccount(mac, settings, { ...request, user: '../x' }), {
    code: 'NAME_INVALID',
  })
  await t.rejects(findMacAccount(mac, settings, { ...request, user: 'aj-other' }), {
    message: 'user aj-other is the own user of jail other',
  })
})

t.test('an account that changed is not used', async (t) => {
  const cases: [string, (mac: FakeMac) => void, RegExp][] = [
    [
      'admin',
      ({ state }) => (state.groups['admin'] = { GroupMembership: ['aj-bot'] }),
      /member of admin/,
    ],
    [
      'raw packets',
      ({ state }) => (state.groups['access_bpf'] = { GroupMembership: ['aj-bot'] }),
      /member of access_bpf/,
    ],
    [
      'shell',
      ({ state }) => Object.assign(state.users['aj-bot'] ?? {}, { UserShell: ['/bin/zsh'] }),
      /UserShell is \/bin\/zsh/,
    ],
    [
      'twin',
      ({ state }) => (state.users['twin'] = { UniqueID: ['1900000000'] }),
      /twin has the same uid/,
    ],
  ]
  for (const [name, harm, message] of cases) {
    const mac = new FakeMac()
    await make(mac)
    harm(mac)
    await t.rejects(make(mac), { code: 'ACCOUNT', message }, name)
  }
})

t.test('removal without Full Disk Access leaves the account whole', async (t) => {
  for (const quirk of [{ fda: false }, { deleteHangs: true }]) {
    const mac = new FakeMac()
    await make(mac)
    const before = snapshot(mac)
    Object.assign(mac.state.quirks, quirk)
    const [account] = await listMacAccounts(mac)
    if (account === undefined) throw new Error('not listed')
    await t.rejects(removeMacAccount(mac, settings, account), {
      code: 'ACCOUNT',
      hint: /Full Disk Access/,
    })
    t.equal(snapshot(mac), before, 'home and record stay together')
  }
})

t.test('a removal killed before the home went does not keep the next account out', async (t) => {
  const home = '/var/agentjail/home/bot'
  for (const [owner, isKept] of [
    [reserved.first + 9, false],
    [501, true],
  ] as const) {
    const mac = new FakeMac()
    mac.state.files[home] = { kind: 'directory', text: '', mode: 0o700, uid: owner, gid: owner }
    mac.state.files[`${home}/old`] = { kind: 'file', text: '', mode: 0o600, uid: owner, gid: owner }
    if (isKept) await t.rejects(make(mac), { message: /is not its own 0700 directory/ })
    else {
      await make(mac)
      t.match(mac.state.files[home], { uid: reserved.first, mode: 0o700 })
    }
    t.equal(mac.state.files[`${home}/old`] !== undefined, isKept, "a person's stays")
  }
})

t.test('a failure at every step leaves no half account', async (t) => {
  for (let at = 1; at < 200; at++) {
    const mac = new FakeMac()
    const start = snapshot(mac)
    mac.failAt = at
    const done = await make(mac).then(
      () => true,
      () => false,
    )
    mac.failAt = undefined
    // A step whose failure did no harm (a group that cannot be asked for) is passed over.
    if (done && mac.steps < at) {
      t.ok(at > 20, `${String(at)} steps`)
      return
    }
    const isWhole =
      mac.state.users['aj-bot'] !== undefined && mac.state.groups['aj-bot'] !== undefined
    t.ok(done || isWhole || snapshot(mac) === start, `step ${String(at)}`)
    await make(mac)
    t.match(
      mac.state.users['aj-bot'],
      { Password: ['*'] },
      `step ${String(at)}: a second run mends it`,
    )
  }
  t.fail('never finished')
})

t.test("a caller's home is the directory's, which /etc/passwd does not have", async (t) => {
  const mac = new FakeMac()
  const [system, config] = [mac, { ...settings, upstreams: [] }]
  const parts = { system, config } as unknown as Parameters<typeof macPlatform>[0]
  t.equal(await callerHome(macPlatform(parts), 501), '/Users/admin')
  t.equal(await callerHome(macPlatform(parts), 502), process.env['SUDO_HOME'] ?? '/')
})

t.test('records as dscl shows them', async (t) => {
  t.strictSame(
    [
      ...parseRecord(
        'UniqueID: 503\nRealName:\n agentjail bot\ndsAttrTypeNative:IsHidden: 1\nNo such key: X\nGroupMembership: a b\n',
      ),
    ],
    [
      ['UniqueID', '503'],
      ['RealName', 'agentjail bot'],
      ['IsHidden', '1'],
      ['GroupMembership', 'a b'],
    ],
  )
})
