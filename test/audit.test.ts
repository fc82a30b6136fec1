import { execFile, execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { parse } from 'yaml'
import { type ExplainPolicy, explain, explainLine, explainText } from '../lib/audit/explain.js'
import { DenialFold } from '../lib/audit/fold.js'
import { LiveDenials } from '../lib/audit/live.js'
import { openAuditLog } from '../lib/audit/log.js'
import { NameBook } from '../lib/audit/names.js'
import { wantsColour } from '../lib/audit/palette.js'
import { type Decision, reasons } from '../lib/audit/record.js'
import { safeText, sanitiseDecisions } from '../lib/audit/sanitise.js'
import { renderSummary } from '../lib/audit/summary.js'
import { isTerminalBusy } from '../lib/audit/terminal.js'
import { type ErrorCode, JailError } from '../lib/errors.js'
import { plainGrant } from '../lib/policy/plain-grant.js'
import type { Grant } from '../lib/policy/types.js'
import { realSystem } from '../lib/system/real.js'

const self = fileURLToPath(import.meta.url)
/** From dist/test/ up. */
const root = join(self, '../../..')
const exec = promisify(execFile)

// This file again, inside a mount namespace with a tiny file system, or on a terminal.
const role = process.argv[2]
if (role === 'full-disk') await writeOnFullDisk(process.argv[3] ?? '')
else if (role === 'terminal') await askTerminal()
else runTests()

async function writeOnFullDisk(dir: string): Promise<void> {
  execFileSync('/usr/bin/mount', ['-t', 'tmpfs', '-o', 'size=64k,mode=0700', 'none', dir])
  const troubles: (string | undefined)[] = []
  const log = await openAuditLog({ dir, jail: 'bot', uid: 7, onTrouble: (m) => troubles.push(m) })
  for (let i = 0; i < 300; i++) log.write([allow(i, 'x'.repeat(200))])
  await log.flush()
  const lost = log.dropped
  fs.truncateSync(join(dir, 'bot.jsonl'), 4096 + 17) // space again, and a torn line at the end
  log.write([allow(9999)])
  await log.close()
  const text = fs.readFileSync(join(dir, 'bot.jsonl'), 'utf8')
  process.stdout.write(JSON.stringify({ lost, dropped: log.dropped, troubles, text }))
}

async function askTerminal(): Promise<void> {
  const system = realSystem()
  const cooked = await isTerminalBusy(system, '/usr/bin/stty')
  execFileSync('/usr/bin/stty', ['-F', '/dev/tty', 'raw', '-echo'])
  const raw = await isTerminalBusy(system, '/usr/bin/stty')
  execFileSync('/usr/bin/stty', ['-F', '/dev/tty', 'sane'])
  process.stdout.write(JSON.stringify({ cooked, raw }))
}

function allow(port: number, detail?: string): Decision {
  return {
    verdict: 'allow',
    reason: 'granted',
    layer: 'tcp',
    direction: 'out',
    proto: 'tcp',
    name: 'api.example.com',
    port,
    ...(detail !== undefined && { detail }),
  }
}

function deny(more: Partial<Decision>): Decision {
  return {
    verdict: 'deny',
    reason: 'name-not-granted',
    layer: 'tcp',
    direction: 'out',
    proto: 'tcp',
    ...more,
  }
}

function readLines(dir: string): Record<string, unknown>[] {
  return fs
    .readdirSync(dir)
    .filter((file) => file.endsWith('.jsonl'))
    .sort()
    .reverse() // bot.jsonl sorts after bot.1.jsonl; the set matters here, not the order
    .flatMap((file) => fs.readFileSync(join(dir, file), 'utf8').split('\n').slice(0, -1))
    .map((line) => JSON.parse(line) as Record<string, unknown>)
}

function runTests(): void {
  const origin = (line: number) => ({ file: 'p.yaml', line, column: 3 })
  const grant = (id: string, name: string, line: number, more: Partial<Grant> = {}): Grant => ({
    ...plainGrant({
      id,
      host: { kind: 'exact', name },
      ports: [{ first: 443, last: 443 }],
      origin: origin(line),
    }),
    ...more,
  })
  const policy: ExplainPolicy & { name: string; source: string } = {
    name: 'p',
    source: 'p.yaml',
    grants: [
      grant('g1', 'api.example.com', 5, { inspect: 'http' }),
      grant('g2', 'db.internal.example', 9),
      grant('g3', 'wild.example', 11, { host: { kind: 'one', name: 'wild.example' } }),
    ],
    cidrs: [],
    denies: [
      { host: { kind: 'exact', name: 'gist.github.com' }, reason: 'no gists', origin: origin(20) },
      { cidr: { family: 4, address: '198.51.100.0', prefix: 24 }, origin: origin(21) },
    ],
  }

  t.test('explain: what, why, where, how to allow exactly that', (t) => {
    const rows: [string, Partial<Decision>, string][] = [
      [
        'a look-up of a name',
        { layer: 'dns', proto: 'udp', name: 'evil.example' },
        'blocked evil.example: the policy grants no such name; to allow it: agentjail allow bot evil.example',
      ],
      [
        'a connection with its process',
        { name: 'evil.example', port: 8443, pid: 12, command: 'curl' },
        'blocked evil.example:8443 (curl, pid 12): the policy grants no such name; to allow it: agentjail allow bot evil.example:8443',
      ],
      [
        'a port of a granted name says where that grant is',
        { reason: 'port-not-granted', name: 'api.example.com', port: 22 },
        'blocked api.example.com:22: the policy grants no such port (p.yaml:5); to allow it: agentjail allow bot api.example.com:22',
      ],
      [
        'an address literal',
        { reason: 'address-not-granted', address: '203.0.113.9', port: 25 },
        'blocked 203.0.113.9:25: no granted name has this address; to allow it: agentjail allow bot 203.0.113.9:25',
      ],
      [
        'an IPv6 literal over udp',
        { reason: 'address-not-granted', proto: 'udp', address: '2001:db8::1', port: 123 },
        "blocked [2001:db8::1]:123/udp: no granted name has this address; to allow it: agentjail allow bot '[2001:db8::1]:123/udp'",
      ],
      [
        'the metadata service is never suggested',
        { reason: 'address-not-granted', address: '169.254.169.254', port: 80 },
        'blocked 169.254.169.254:80: no granted name has this address; metadata addresses are never suggested',
      ],
      [
        'loopback is granted by port',
        { reason: 'address-private', address: '127.0.0.1', port: 5432 },
        'blocked 127.0.0.1:5432: private, loopback, link-local or metadata address; to allow it: agentjail allow bot localhost:5432',
      ],
      [
        'an exact name with a private address',
        {
          reason: 'address-private',
          layer: 'dns',
          name: 'db.internal.example',
          address: '10.0.0.5',
        },
        'blocked db.internal.example: private, loopback, link-local or metadata address (p.yaml:9); only if that private address is the one you mean',
      ],
      [
        'a denial of the policy names its line and its reason',
        { reason: 'name-denied', name: 'gist.github.com', port: 443 },
        'blocked gist.github.com:443: the policy denies this name (no gists) (p.yaml:20); a denial wins over every grant: to open it, remove that line',
      ],
      [
        'a denied range',
        { reason: 'address-denied', address: '198.51.100.7', port: 443 },
        'blocked 198.51.100.7:443: the policy denies this address (p.yaml:21); a denial wins over every grant: to open it, remove that line',
      ],
      [
        'a path',
        {
          reason: 'path-not-granted',
          layer: 'http',
          name: 'api.example.com',
          port: 443,
          method: 'POST',
          path: '/v1/files',
          grant: 'g1',
        },
        'blocked POST api.example.com/v1/files: the policy grants no such path (p.yaml:5)',
      ],
      [
        'ICMP cannot be granted',
        { reason: 'protocol-not-granted', layer: 'kernel', proto: 'icmp', address: '192.0.2.1' },
        'blocked icmp 192.0.2.1: the policy grants no such protocol; only tcp and udp can be granted',
      ],
      [
        'a single label cannot be granted',
        { layer: 'dns', proto: 'udp', name: 'intranet' },
        'blocked intranet: the policy grants no such name; use the full name of the host: only such are granted',
      ],
    ]
    for (const [title, decision, line] of rows) {
      t.equal(explainLine(explain(deny(decision), policy, { jail: 'bot' })), line, title)
    }
    t.end()
  })

  t.test('explain: text of a stranger reaches neither shell, YAML nor terminal', (t) => {
    const hostile = [
      'a;id.example',
      '$(id).example',
      'x\u001b]0;owned\u0007.example',
      "a'b.example",
      '*.com',
    ]
    for (const name of hostile) {
      const text = explain(deny({ name, port: 443 }), policy, { jail: 'bot' })
      t.equal(text.allow, undefined, `no command for ${JSON.stringify(name)}`)
      t.equal(text.yaml, undefined, 'no line either')
      t.notMatch(
        explainText(text),
        /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/,
        'no control character',
      )
    }
    t.equal(safeText('a\u202eb\u0000'), 'a\\u202eb\\x00')
    t.equal(safeText('x'.repeat(300)).length, 256)
    t.end()
  })

  t.test('explain: the YAML line reads back as the destination it names', (t) => {
    const names = [
      'evil.example',
      '1.e5',
      '0x1.f',
      'null.example',
      'yes.no',
      '_a.example',
      '1.2.e3',
    ]
    for (const name of names) {
      for (const port of [443, 22]) {
        const { yaml } = explain(deny({ name, port }), policy, { jail: 'bot' })
        t.strictSame(
          parse(yaml ?? ''),
          [port === 443 ? name : `${name}:${String(port)}`],
          yaml ?? 'no line',
        )
      }
    }
    const udp = explain(deny({ proto: 'udp', name: 'a.example', port: 123 }), policy, { jail: 'b' })
    t.strictSame(parse(udp.yaml ?? ''), [{ host: 'a.example', ports: [123], proto: 'udp' }])
    const v6 = explain(
      deny({ reason: 'address-not-granted', address: '2001:db8::1', port: 443 }),
      policy,
      { jail: 'b' },
    )
    t.strictSame(parse(v6.yaml ?? ''), [{ cidr: '2001:db8::1/128', ports: [443] }])
    t.equal(v6.under, 'network.cidrs')
    t.end()
  })

  t.test('explain: every reason has either a remedy or advice', (t) => {
    for (const reason of Object.keys(reasons) as (keyof typeof reasons)[]) {
      const decision = deny({
        reason,
        name: 'api.example.com',
        port: 443,
        method: 'GET',
        path: '/',
      })
      const { allow, yaml, advice } = explain(decision, policy, { jail: 'bot' })
      t.ok(allow ?? yaml ?? advice, reason)
    }
    t.end()
  })

  t.test('docs/errors.md has every code and no other', (t) => {
    const page = fs.readFileSync(join(root, 'docs/errors.md'), 'utf8')
    const [, errorPart = '', reasonPart = ''] = page.split(/^## (?:Errors|Reasons)$/m)
    const listed = (part: string) =>
      [...part.matchAll(/^\| `([^`]+)`/gm)].map(([, code]) => code).sort()
    const source = fs.readFileSync(join(root, 'lib/errors.ts'), 'utf8')
    const union = /export type ErrorCode =([^]*?)\n\n/.exec(source)?.[1] ?? ''
    const codes = [...union.matchAll(/'([A-Z_]+)'/g)].map(([, code]) => code as ErrorCode)
    t.ok(codes.length > 10, 'the codes were found')
    t.strictSame(listed(errorPart), [...codes].sort())
    t.strictSame(listed(reasonPart), Object.keys(reasons).sort())
    for (const code of codes) {
      const exit = String(new JailError(code, '').exit)
      t.match(errorPart, new RegExp(`\\| \`${code}\` +\\| ${exit} `), `${code} exits ${exit}`)
    }
    t.end()
  })

  t.test('sanitise: what the gate sends is checked before it is believed', (t) => {
    const good = deny({ name: 'a.example', port: 1 })
    const { decisions, bad } = sanitiseDecisions([
      good,
      null,
      'x',
      { ...good, reason: '__proto__' },
      { ...good, verdict: 'maybe' },
      { ...good, layer: 'disk' },
    ])
    t.strictSame(decisions, [good])
    t.equal(bad, 5)
    const stripped = sanitiseDecisions([
      { ...good, port: 1e9, count: -1, secret: 'k', name: 'a\nb', detail: 'y'.repeat(999) },
    ]).decisions[0]
    t.strictSame(stripped, { ...deny({ name: 'a\\x0ab' }), detail: `${'y'.repeat(255)}…` })
    t.strictSame(sanitiseDecisions('nonsense'), { decisions: [], bad: 1 })
    t.end()
  })

  t.test('fold: alike is one, with a count; memory is bounded', (t) => {
    const fold = new DenialFold()
    fold.add(allow(443))
    fold.add(deny({ layer: 'dns', proto: 'udp', name: 'a.example', detail: 'A' }))
    fold.add(deny({ layer: 'dns', proto: 'udp', name: 'a.example', detail: 'AAAA', count: 2 }))
    fold.add(deny({ name: 'a.example', port: 443 }))
    fold.add(deny({ name: 'a.example', port: 80 }))
    t.strictSame(
      fold.entries().map(({ count }) => count),
      [3, 1, 1],
    )
    const forged = { ...deny({}), port: '\u001b[2J' } as unknown as Decision
    t.equal(new DenialFold().add(forged)?.decision.port, undefined, 'a forged field is left out')
    for (let i = 0; i < 2_000; i++) fold.add(deny({ name: `n${String(i)}.example`, port: 443 }))
    t.equal(fold.entries().length, 1_000)
    t.equal(fold.total, 2_005)
    t.equal(fold.entries().reduce((sum, { count }) => sum + count, 0) + fold.overflow, 2_005)
    t.end()
  })

  t.test('names: a denial of the kernel says which name was meant', (t) => {
    const book = new NameBook()
    const lookUp = (name: string, detail: string): Decision => ({
      ...allow(53),
      layer: 'dns',
      proto: 'udp',
      name,
      detail,
    })
    const kernel = (address: string) =>
      deny({ reason: 'port-not-granted', layer: 'kernel', address, port: 80 })
    book.name([
      lookUp('a.example', 'A 192.0.2.1 192.0.2.2'),
      lookUp('a.example', 'AAAA 2001:db8::1'),
    ])
    book.name([lookUp('b.example', 'A 192.0.2.2'), { ...allow(443), address: '192.0.2.9' }])
    const named = (address: string) => book.name([kernel(address)])[0]?.name
    t.equal(named('192.0.2.1'), 'a.example')
    t.equal(named('2001:db8::1'), 'a.example')
    t.equal(named('192.0.2.9'), 'api.example.com')
    t.equal(named('192.0.2.2'), undefined, 'shared by two names')
    const [shared] = book.name([kernel('192.0.2.2')])
    t.same(shared?.names, ['a.example', 'b.example'])
    t.match(shared && explain(shared, policy, { jail: 'bot' }), {
      why: 'the policy grants no such port (an address of a.example and b.example)',
      advice: 'grant the one that was meant: a.example:80 or b.example:80',
      yaml: undefined,
    })
    t.equal(named('192.0.2.77'), undefined)
    t.equal(named('A'), undefined)
    for (let i = 0; i < 5_000; i++) {
      book.name([lookUp('c.example', `A 10.1.${String(i >> 8)}.${String(i & 255)}`)])
    }
    t.equal(named('192.0.2.1'), undefined, 'bounded')
    t.equal(named('10.1.19.135'), 'c.example')
    t.end()
  })

  t.test('summary: short, true, and what to add', (t) => {
    const fold = new DenialFold()
    const options = { jail: 'bot', policy, dropped: 0, colour: false }
    t.equal(renderSummary(fold, options), '', 'nothing blocked, nothing said')
    fold.add(deny({ layer: 'dns', proto: 'udp', name: 'evil.example', count: 2 }))
    fold.add(deny({ reason: 'address-not-granted', address: '203.0.113.9', port: 25 }))
    t.equal(
      renderSummary(fold, options),
      `agentjail: bot: blocked by policy p:
  evil.example (2 look-ups): the policy grants no such name
  203.0.113.9:25 (1 attempt): no granted name has this address
If it was wanted, add to p.yaml:
  under network.allow:  - evil.example
  under network.cidrs:  - {cidr: '203.0.113.9/32', ports: [25]}
  or run: agentjail allow p.yaml evil.example 203.0.113.9:25
`,
    )
    const who = new DenialFold()
    who.add(deny({ name: 'evil.example', port: 443, pid: 12, command: 'curl \u001b[2J' }))
    t.match(
      renderSummary(who, options),
      '  evil.example:443 (1 attempt by curl \\x1b[2J, pid 12): the policy grants no such name\n',
    )
    const spaced = { ...options, policy: { ...policy, source: 'my file.yaml + bundle:npm' } }
    t.match(renderSummary(who, spaced), 'If it was wanted, add to my file.yaml:')
    t.notMatch(renderSummary(who, spaced), 'agentjail allow', 'no command that a shell would split')
    const bundled = { ...options, policy: { ...policy, source: 'bundle:p' } }
    t.match(renderSummary(fold, bundled), 'to a policy of your own with `extends: [bundle:p]`:')
    for (let i = 0; i < 3_000; i++) fold.add(deny({ name: `n${String(i)}.example`, port: 443 }))
    const long = renderSummary(fold, { ...options, dropped: 7, colour: true })
    t.ok(long.split('\n').length - 1 <= 12, 'at most 12 lines')
    t.match(long, 'and 2998 more: agentjail logs bot --denied')
    t.match(long, '7 records did not fit in the audit log')
    t.match(long, '\u001b[31m')
    t.equal(wantsColour({ isTTY: true }, { NO_COLOR: '1' }), false)
    t.equal(wantsColour({ isTTY: true }, { TERM: 'dumb' }), false)
    t.equal(wantsColour({}, {}), false)
    t.equal(wantsColour({ isTTY: true }, { TERM: 'xterm' }), true)
    t.end()
  })

  t.test('live: once each, counts at 10 and 100, nothing into a busy screen', async (t) => {
    let now = 0
    let busy = false
    let out = ''
    const live = new LiveDenials({
      jail: 'bot',
      policy: () => policy,
      write: (text) => (out += text),
      isTerminal: true,
      isBusy: () => Promise.resolve(busy),
      monotonic: () => now,
    })
    const one = deny({ name: 'evil.example', port: 443 })
    for (let i = 0; i < 100; i++) live.add([one])
    await live.settled()
    t.equal(out.split('\r\n').length - 1, 3, 'first, tenth, hundredth')
    t.match(out, '[100 times]\r\n')
    t.equal(live.held, 97)
    now += 2_000
    live.add([deny({ layer: 'dns', proto: 'udp', name: 'batch.example', count: 4 })])
    live.add([deny({ layer: 'dns', proto: 'udp', name: 'batch.example', count: 17 })])
    await live.settled()
    t.match(out, /batch\.example: .* \[4 times\]\r\n/, 'folded by the gate, and still the first')
    t.match(out, /batch\.example: .* \[21 times\]\r\n/, 'past ten')
    out = out.replaceAll(/.*batch\.example.*\r\n/g, '')
    busy = true
    now += 2_000
    live.add([deny({ name: 'other.example', port: 443 })])
    await live.settled()
    t.notMatch(out, 'other.example')
    t.equal(live.held, 98)
    busy = false
    now += 2_000
    for (let i = 0; i < 20; i++) live.add([deny({ name: `n${String(i)}.example`, port: 443 })])
    await live.settled()
    t.equal(out.split('\r\n').length - 1, 3 + 5, 'five lines a second')
    t.equal(live.fold.total, 142, 'the summary has them all')
  })

  t.test('terminal: raw mode is seen, on a real one', async (t) => {
    const command = `${process.execPath} ${self} terminal`
    const { stdout } = await exec('/usr/bin/script', ['-qec', command, '/dev/null'], {
      timeout: 20_000,
    })
    t.strictSame(JSON.parse(stdout), { cooked: false, raw: true })
  })

  t.test('log: one record a decision, private, alike denials folded', async (t) => {
    const dir = join(t.testdir(), 'log')
    const log = await openAuditLog({ dir, jail: 'bot', uid: 1_900_000_001, now: () => 1e12 })
    const dns = deny({ layer: 'dns', proto: 'udp', name: 'evil.example' })
    log.write([allow(443), { ...dns, detail: 'A' }, { ...dns, detail: 'AAAA' }])
    log.write([{ ...allow(443), up: 10, down: 20 }])
    log.drop(3)
    await log.close()
    await log.close()
    const head = { v: 1, time: '2001-09-09T01:46:40.000Z', jail: 'bot', uid: 1_900_000_001 }
    t.strictSame(readLines(dir), [
      { ...head, ...allow(443) },
      { ...head, ...dns, detail: 'A', count: 2 },
      { ...head, ...allow(443), up: 10, down: 20 },
      { ...head, dropped: 3 },
    ])
    t.equal(fs.statSync(dir).mode & 0o777, 0o700)
    t.equal(fs.statSync(join(dir, 'bot.jsonl')).mode & 0o777, 0o600)
  })

  t.test('log: rotates, keeps five, loses nothing while they last', async (t) => {
    const dir = join(t.testdir(), 'log')
    const log = await openAuditLog({ dir, jail: 'bot', uid: 1, maxBytes: 4_096 })
    for (let i = 0; i < 60; i++) {
      log.write([allow(i)])
      await log.flush()
    }
    await log.close()
    const ports = readLines(dir).map(({ port }) => port)
    t.strictSame(
      ports.map(Number).sort((a, b) => a - b),
      [...Array(60).keys()],
    )
    for (let i = 0; i < 5; i++) {
      const again = await openAuditLog({ dir, jail: 'bot', uid: 1, maxBytes: 600 })
      again.write(Array.from({ length: 3 }, (_, n) => allow(100 + n)))
      await again.close()
    }
    t.strictSame(fs.readdirSync(dir).sort(), [
      'bot.1.jsonl',
      'bot.2.jsonl',
      'bot.3.jsonl',
      'bot.4.jsonl',
      'bot.jsonl',
    ])
  })

  t.test('log: a flood is bounded, and what was not written is counted', async (t) => {
    const dir = join(t.testdir(), 'log')
    let now = 1e12
    const log = await openAuditLog({
      dir,
      jail: 'bot',
      uid: 1,
      rate: 100,
      burst: 50,
      now: () => now,
    })
    log.write(Array.from({ length: 1_000 }, (_, i) => allow(i)))
    now += 100
    log.write(Array.from({ length: 1_000 }, (_, i) => allow(i)))
    await log.close()
    const lines = readLines(dir)
    const written = lines.filter(({ verdict }) => verdict === 'allow').length
    const told = lines.reduce((sum, { dropped }) => sum + Number(dropped ?? 0), 0)
    t.equal(written, 60, 'the burst, and a tenth of a second')
    t.equal(told, 1_940)
    t.equal(log.dropped, 1_940)

    const usual = await openAuditLog({
      dir: join(dir, '..', 'log3'),
      jail: 'bot',
      uid: 1,
      now: () => now,
    })
    const command = 'x'.repeat(160)
    usual.write(Array.from({ length: 20_100 }, (_, i) => ({ ...allow(i), command })))
    await usual.close()
    t.equal(usual.dropped, 100, '20,000 at once, where nothing else is said')

    const dir2 = join(t.testdir(), 'log2')
    const small = await openAuditLog({ dir: dir2, jail: 'bot', uid: 1, maxPending: 10_000 })
    small.write(Array.from({ length: 1_000 }, (_, i) => allow(i)))
    await small.close()
    t.equal(small.written + small.dropped, 1_000, 'bounded memory, nothing uncounted')
    t.ok(small.written > 0 && small.written < 40)
  })

  t.test('log: 50,000 events are all there or counted', async (t) => {
    const dir = join(t.testdir(), 'log')
    const log = await openAuditLog({ dir, jail: 'bot', uid: 1, rate: 1e6, burst: 1e6 })
    for (let i = 0; i < 50_000; i++) {
      log.write([allow(i)])
      if (i % 500 === 499) await new Promise(setImmediate)
    }
    await log.close()
    const lines = readLines(dir)
    const told = lines.reduce((sum, { dropped }) => sum + Number(dropped ?? 0), 0)
    t.equal(lines.filter(({ verdict }) => verdict === 'allow').length + told, 50_000)
    t.equal(told, log.dropped)
  })

  t.test('log: nothing planted is followed', async (t) => {
    const base = t.testdir({ victim: 'precious', log: {}, open: {} })
    const log = join(base, 'log')
    fs.chmodSync(log, 0o700)
    fs.symlinkSync(join(base, 'victim'), join(log, 'bot.jsonl'))
    await t.rejects(openAuditLog({ dir: log, jail: 'bot', uid: 1 }), { code: 'STATE' }, 'a link')
    fs.unlinkSync(join(log, 'bot.jsonl'))
    fs.linkSync(join(base, 'victim'), join(log, 'bot.jsonl'))
    await t.rejects(
      openAuditLog({ dir: log, jail: 'bot', uid: 1 }),
      { code: 'STATE' },
      'a second name',
    )
    fs.unlinkSync(join(log, 'bot.jsonl'))
    execFileSync('/usr/bin/mkfifo', [join(log, 'bot.jsonl')])
    await t.rejects(openAuditLog({ dir: log, jail: 'bot', uid: 1 }), { code: 'STATE' }, 'a pipe')
    fs.chmodSync(join(base, 'open'), 0o777)
    const open = join(base, 'open')
    await t.rejects(
      openAuditLog({ dir: open, jail: 'bot', uid: 1 }),
      { code: 'STATE' },
      'others enter',
    )
    t.equal(fs.readFileSync(join(base, 'victim'), 'utf8'), 'precious')
  })

  t.test('log: a full disk is counted, told once, and survived', async (t) => {
    const dir = t.testdir()
    const args = ['--mount', process.execPath, self, 'full-disk', dir]
    const { stdout } = await exec('/usr/bin/unshare', args, { timeout: 20_000 })
    const result = JSON.parse(stdout) as {
      lost: number
      dropped: number
      troubles: (string | null)[]
      text: string
    }
    t.ok(result.lost > 0, 'records were lost')
    t.equal(result.dropped, result.lost, 'and none after there was space again')
    t.match(result.troubles[0], /ENOSPC/)
    t.equal(result.troubles.length, 2, 'told when it began and when it ended')
    const last = result.text.trimEnd().split('\n').slice(-2)
    t.match(JSON.parse(last[0] ?? ''), { port: 9999 })
    t.match(JSON.parse(last[1] ?? ''), { dropped: result.lost })
  })
}
