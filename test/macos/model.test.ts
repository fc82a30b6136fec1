/**
 * The model against what is known of the real commands (manuals, kernel sources, field reports): words, exit codes,
 * effects. What it does not know it must refuse, or a test on it would prove nothing.
 */
import t from 'tap'
import { freshMac, reboot, type MacState } from './model/state.js'
import { runTool } from './model/tools.js'

const altq = 'No ALTQ support in kernel\nALTQ related functions disabled\n'
const fWarning = /^pfctl: Use of -f option, could result in flushing of rules\npresent in the main/
const own = ['-a', 'com.apple/agentjail'] as const

/** One Mac and its commands, each by its name alone. */
function mac(state: MacState = freshMac()) {
  const run = (command: string, input = '') => {
    const [name = '', ...args] = command.split(' ')
    return runTool(state, [name, ...args], input)
  }
  return { state, run, pf: (args: string, input = '') => run(`pfctl ${args}`, input) }
}

const load = (more = ''): string => `${more}${own.join(' ')} -o none -f -`
const rule =
  'pass out quick proto tcp from any to 192.0.2.1 port = 443 flags any no state label "x"\n'

t.test('pfctl: arguments', (t) => {
  const { pf, state } = mac()
  for (const bad of ['-h', '-Q', '-s nonsense', '-F nonsense', '-t x -T nonsense', '-o nonsense'])
    t.match(pf(bad), { code: 1, stderr: /usage: pfctl/ }, bad)
  t.match(pf('-sr extra'), {
    code: 1,
    stderr: /unknown command line argument: extra \.\.\.\nusage/,
  })
  t.match(pf('-vsr').stdout, /^ {2}\[ Evaluations: 0 .*\]\n {2}\[ Inserted: uid 0 pid \d+ \]$/m)
  t.match(pf('-vvsr').stdout, /^@0 scrub-anchor/)
  t.equal(pf('-s n').stdout, pf('-s nat').stdout, 'the first that begins so')
  t.match(pf('-sr'), { code: 0, stderr: altq })
  t.match(pf('-qsr'), { code: 0, stderr: '' })
  state.euid = 501
  t.match(pf('-sr'), { code: 1, stderr: 'pfctl: /dev/pf: Permission denied\n' })
  t.match(pf('-nf -', rule), { code: 0, stderr: fWarning }, 'a syntax check needs no root')
  t.end()
})

t.test('pfctl: enable, references, disable', (t) => {
  const { pf, state } = mac()
  t.match(pf('-X 1'), { code: 1, stderr: /pf not enabled/ })
  const { stderr } = pf('-E')
  const token = /^pf enabled\nToken : (\d+)\n$/m.exec(stderr)?.[1] ?? ''
  t.ok(token, stderr)
  t.match(pf('-s References').stdout, new RegExp(`^TOKENS:\nPID .*\n\\d+ +pfctl +${token} `))
  t.match(pf('-e'), { code: 1, stderr: /pf already enabled/ })
  t.match(pf(`-X ${token}`), {
    code: 0,
    stderr: /disable request successful. 1 more pf enable reference\(s\) remaining, pf still/,
  })
  t.equal(state.pf.enabled, true, 'the -e that was refused holds it all the same')
  t.match(pf('-X 77'), { code: 1, stderr: /DIOCSTOPREF: Invalid argument/ })
  t.match(pf('-X x'), { code: 1, stderr: /Invalid token value 'x'\nusage/ })
  t.match(pf('-d'), { code: 0, stderr: /pf disabled/ })
  t.match(pf('-d'), { code: 1, stderr: /pf not enabled/ })
  t.equal(pf('-qE').stderr, '', 'with -q the token is lost')
  t.equal(pf('-s References').stdout.split('\n').length, 4)
  reboot(state)
  t.match(pf('-s References').stdout, /^No pf starter references held$/m)
  t.match(pf('-si').stdout, /^Status: Disabled +Debug: Urgent$/m)
  t.end()
})

t.test('pfctl: loads are whole or not at all', (t) => {
  const { pf, state } = mac()
  t.match(pf(load(), rule), { code: 0, stdout: '', stderr: fWarning })
  t.equal(
    pf(load('-v '), rule).stdout,
    rule.replace('quick', 'quick inet').replace('flags any ', ''),
  )
  const before = JSON.stringify(state.pf)
  for (const [text, message] of [
    ['pass out quick on\n', /^stdin:1: syntax error$/m],
    [rule.trimEnd(), /^stdin:1: syntax error$/m],
    ['pass from any to $x\n', /macro 'x' not defined/],
    ['pass proto tcp all user nobody2\n', /unknown user nobody2/],
    ['pass proto tcp all user 4294967295\n', /illegal uid value/],
    ['pass proto tcp from any to any port 70000\n', /illegal port value 70000/],
    ['pass from any to any port 80\n', /port only applies to tcp\/udp/],
    ['pass proto udp all flags S\/SA\n', /flags only apply to tcp/],
    ['pass inet from any to ::1\n', /rule expands to no valid combination/],
    [
      'pass from any to no.example\n',
      /^no IP address found for no\.example\nstdin:1: could not parse/m,
    ],
    [`table <${'x'.repeat(32)}> persist\n`, /table name too long, max 31 chars/],
    [`pass all label "${'x'.repeat(64)}"\n`, /rule label too long \(max 63 chars\)/],
    ['pass all label "a" label "b"\n', /label cannot be redefined/],
    ['pass route-to (lo0 127.0.0.1) proto tcp all\n', /direction must be explicit/],
    ['anchor "_x"\n', /anchor names beginning with '_' are reserved/],
    ['pass all\nset skip on lo0\n', /Rules must be in order/],
    ['table <t> { 192.0.2.1,\n192.0.2.2 }\n', /syntax error/],
  ] as const) {
    const { code, stderr } = pf(load(), text)
    t.equal(code, 1, text)
    t.match(stderr, message, text)
    t.match(stderr, /pfctl: Syntax error in config file: pf rules not loaded\n$/, text)
  }
  t.match(pf('-a com.apple/agentjail -f /none'), { code: 1, stderr: /pfctl: \/none: No such file/ })
  t.match(pf('-a _x -f -', rule), { code: 1, stderr: /beginning with '_' cannot be modified/ })
  state.quirks.busyLoads = 1
  t.match(pf(load(), rule), { code: 1, stderr: /DIOCXCOMMIT: Resource busy/ })
  t.equal(JSON.stringify(state.pf), before, 'none of them changed anything')
  t.match(pf('-f -', 'pass all\n').code, 0)
  t.notMatch(
    pf('-sr').stdout,
    /anchor/,
    'the main ruleset without -a: whatever is not in the file is gone',
  )
  t.end()
})

t.test('pfctl: tables', (t) => {
  const { pf, state } = mac()
  const table = (words: string) => pf(`-a com.apple/agentjail -t t ${words}`)
  t.match(table('-T show'), { code: 255, stderr: /Anchor or Ruleset does not exist\./ })
  pf(load(), `table <t> persist\n${rule}`)
  t.match(pf('-a com.apple/agentjail -t u -T show'), {
    code: 255,
    stderr: /Table does not exist\./,
  })
  t.match(table('-T add 192.0.2.1 192.0.2.2'), { code: 0, stderr: /2\/2 addresses added\./ })
  t.match(table('-T replace 192.0.2.2 !192.0.2.3'), {
    stderr: /1 addresses added\.\n1 addresses deleted\./,
  })
  t.match(table('-T replace 192.0.2.2 !192.0.2.3'), { stderr: /no changes\./ })
  t.equal(table('-q -T show').stdout.split('\n').sort().join('|'), '|   192.0.2.2|  !192.0.2.3')
  t.match(table('-T test 192.0.2.2 192.0.2.9'), { code: 2, stderr: /1\/2 addresses match\./ })
  t.match(table('-T add no.example'), { code: 255, stderr: /cannot decode no\.example/ })
  pf(load(), `table <t> persist\n${rule}`)
  t.match(table('-T show').stdout, '192.0.2.2', 'without braces the content stays')
  pf(load(), rule)
  t.match(table('-T show').stdout, '192.0.2.2', 'not named at all, a persist table stays too')
  t.match(pf('-a com.apple/agentjail -vsT').stdout, '-pa-r-\tt\tcom.apple/agentjail\n')
  pf(load(), `table <t> persist { }\n${rule}`)
  t.equal(table('-q -T show').stdout, '', 'empty braces empty it')
  t.match(table('-T kill'), { code: 0, stderr: /1 table deleted\./ })
  pf('-f -', `table <t> persist\n`)
  t.match(
    pf(load(), 'table <t> persist\n').stderr,
    /warning: namespace collision with <t> global table\./,
  )
  t.equal(state.pf.tables['com.apple/agentjail\0t']?.addresses.length, 0)
  t.end()
})

t.test('pfctl: what is shown of what is not there, and flushes', (t) => {
  const { pf, state } = mac()
  t.match(pf('-a none -sr'), { code: 0, stdout: '', stderr: /DIOCGETRULES: Invalid argument/ })
  t.match(pf('-a com.apple/* -sr'), { code: 0, stdout: '', stderr: /DIOCGETRULES: Invalid/ })
  t.match(pf('-a none -sA'), { code: 0, stderr: /Anchor 'none' not found\./ })
  t.match(pf('-sA').stdout, /^ {2}com\.apple$/m)
  pf(load(), rule)
  t.match(pf(`${own.join(' ')} -s labels`).stdout, /^x 0 0 0 0 0 0 0$/m)
  t.match(pf(`${own.join(' ')} -F all`), {
    ...{ code: 0, stderr: /rules cleared\nnat cleared\ndummynet cleared\n0 tables deleted\./ },
  })
  t.match(pf('-a none -F rules').code, 0, 'even if there is no such anchor')
  state.pf.states = [{ proto: 'tcp', from: '192.0.2.1:1', to: '192.0.2.2:443' }]
  t.match(
    pf('-ss').stdout,
    /^ALL tcp 192\.0\.2\.1:1 -> 192\.0\.2\.2:443 +ESTABLISHED:ESTABLISHED$/m,
  )
  t.match(
    pf('-k 0.0.0.0/0 -k 192.0.2.2').stderr,
    /killed 1 states from 1 sources and 1 destinations/,
  )
  t.match(pf('-k no.example').stderr, /getaddrinfo: nodename nor servname provided/)
  state.pf.skipped = ['lo0']
  t.match(pf('-vsI').stdout, /^lo0 \(skip\)$/m)
  t.match(pf('-F all').stderr, /states cleared\nsource tracking entries cleared\npf: statistics/)
  t.equal(pf('-sr').stdout, '')
  t.notMatch(pf('-vsI').stdout, /skip/)
  t.end()
})

t.test('accounts, and how they lie', (t) => {
  const { run, state } = mac()
  t.match(run('dscl . -read /Users/none'), { code: 56, stderr: /-14136 \(eDSRecordNotFound\)/ })
  t.match(run('dscl . read /Users/admin Nothing'), { code: 0, stdout: 'No such key: Nothing\n' })
  t.equal(run('dscl . -create /Users/x RealName two').code, 0)
  state.users['x']!['RealName'] = ['two words']
  t.equal(run('dscl . -read /Users/x RealName').stdout, 'RealName:\n two words\n')
  run('dscl . -create /Users/x IsHidden 1')
  t.equal(run('dscl . -read /Users/x IsHidden').stdout, 'dsAttrTypeNative:IsHidden: 1\n')
  run('dscl . -merge /Groups/staff GroupMembership x')
  run('dscl . -merge /Groups/staff GroupMembership x')
  t.strictSame(state.groups['staff']!['GroupMembership'], ['x'], 'merge makes no second one')
  t.match(run('dscl . -delete /Users/x Nothing'), { code: 185, stderr: /-14009/ })
  state.quirks.fda = false
  t.match(run('dscl . -delete /Users/x'), { code: 40, stderr: /-14120 \(eDSPermissionError\)/ })
  const refused = run('sysadminctl -addUser y -UID 455 -home /var/y')
  t.match(refused, {
    code: 0,
    stdout: '',
    stderr: /Assigning UID: 502 GID: 20\n.*### Error:-14120/s,
  })
  t.strictSame(state.users['y']!['UniqueID'], ['502'], 'another uid than asked, and exit code 0')
  t.match(run('sysadminctl -deleteUser y'), { code: 0, stderr: /### Error:-14120/ })
  t.ok(state.users['y'], 'the record stays')
  state.quirks.fda = true
  t.match(run('sysadminctl -secureTokenStatus x').stderr, /Secure token is DISABLED for user x/)
  state.euid = 501
  t.match(run('sysadminctl -addUser z'), { code: 0, stderr: /should be run as root/ })
  t.match(run('dscl . -create /Users/z'), { code: 40, stderr: /eDSPermissionError/ })
  state.euid = 0
  t.equal(run('dseditgroup -o create -i 901 g').code, 0)
  t.equal(run('dseditgroup -o edit -a x -t user g').code, 0)
  t.match(
    run('dseditgroup -o edit -a none -t user g').stdout +
      run('dseditgroup -o edit -a none -t user g').stderr,
    /Record was not found/,
  )
  t.match(run('dseditgroup -o checkmember -m x g'), { code: 0, stdout: 'yes x is a member of g\n' })
  t.equal(run('dseditgroup -o edit -d x -t user g').code, 0)
  t.match(run('dseditgroup -o checkmember -m x g'), { code: 67, stdout: /^no x is NOT a member/ })
  t.match(
    run('dsmemberutil checkmembership -U x -G staff').stdout,
    'user is a member of the group\n',
  )
  t.match(run('id -u none'), { code: 1, stderr: 'id: none: no such user\n' })
  t.end()
})

t.test('launchd, devices, access lists', (t) => {
  const { run, state } = mac()
  const path = '/Library/LaunchDaemons/x.plist'
  const text = '<key>Label</key><string>x</string>'
  const file = { kind: 'file', text, mode: 0o644, uid: 0, gid: 0 } as const
  state.files[path] = { ...file, mode: 0o666 }
  const bootstrap = () => run(`launchctl bootstrap system ${path}`)
  t.match(bootstrap(), { code: 5, stderr: /Bootstrap failed: 5: Input\/output error/ }, 'mode')
  state.files[path] = file
  t.match(run('launchctl print system/x'), { code: 113, stderr: /Could not find service "x"/ })
  run('launchctl disable system/x')
  reboot(state)
  t.match(bootstrap(), { code: 119, stderr: /119: Service is disabled/ }, 'over restarts')
  run('launchctl enable system/x')
  t.equal(bootstrap().code, 0)
  t.equal(bootstrap().code, 5, 'loaded already')
  t.match(
    run('launchctl print system/x').stdout,
    /state = running\n.*last exit code = \(never exited\)/s,
  )
  t.match(run('launchctl list').stdout, /^\d+\t0\tx$/m)
  t.match(run('launchctl kickstart -p system/x').stdout, /\d/)
  t.equal(run('launchctl bootout system/x').code, 0)
  t.match(run('launchctl bootout system/x'), { code: 3, stderr: /3: No such process/ })
  t.match(run('ifconfig pflog0'), { code: 1, stderr: /interface pflog0 does not exist/ })
  t.match(run('tcpdump -i pflog0'), { code: 1, stderr: /pflog0: No such device exists/ })
  t.equal(run('ifconfig pflog0 create').code, 0)
  t.match(run('ifconfig pflog0 create'), { code: 1, stderr: /SIOCIFCREATE2: File exists/ })
  t.match(
    run('tcpdump -i pflog0').stderr,
    /^tcpdump: verbose .*\nlistening on pflog0, link-type PFLOG/,
  )
  reboot(state)
  t.match(run('ifconfig pflog0'), { code: 1 }, 'gone at a restart')
  const acl = (verb: string, who = 'admin') =>
    runTool(state, ['/bin/chmod', verb, `user:${who} allow read`, '/x'], '')
  t.equal(acl('+a').code, 0)
  t.equal(acl('+a').code, 0)
  t.strictSame(state.acls['/x'], ['user:admin allow read'], 'the same entry is one')
  t.match(acl('+a', 'none'), { code: 1, stderr: /Unable to translate 'none' to a UID\/GID/ })
  t.equal(acl('-a').code, 0)
  t.match(acl('-a'), { code: 1, stderr: /No matching ACL entry/ })
  state.owners['/x'] = 0
  const as = (user: string, verb: string) =>
    runTool(
      state,
      ['/usr/bin/sudo', '-n', '-u', user, '--', '/bin/chmod', verb, 'user:admin allow read', '/x'],
      '',
    )
  t.match(as('admin', '+a'), { code: 1, stderr: /Operation not permitted/ }, 'not his')
  t.match(as('none', '+a'), { code: 1, stderr: 'sudo: unknown user none\n' })
  t.equal(as('root', '+a').code, 0)
  t.match(run('chmod -R -h +a x /x'), { code: 1, stderr: /may not be specified together/ })
  t.equal(runTool(state, ['/usr/bin/pfctl', '-sr'], '').code, 127, 'each has one place')
  t.end()
})
