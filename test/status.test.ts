import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { openAuditLog } from '../lib/audit/log.js'
import type { Decision } from '../lib/audit/record.js'
import { logsCommand } from '../lib/cli/commands/logs.js'
import { statusCommand } from '../lib/cli/commands/status.js'
import { formatBytes, formatDuration, parseSince } from '../lib/status/human.js'
import { parseRecord } from '../lib/status/logs.js'
import { type JailStatus, renderStatus } from '../lib/status/status.js'

process.env['TZ'] = 'UTC'

const self = fileURLToPath(import.meta.url)
const bin = join(self, '../../bin/agentjail.cjs')

// This file again, in a mount namespace: the command line with a log of its own.
if (process.argv[2] === 'reader') {
  execFileSync('/usr/bin/mount', ['-t', 'tmpfs', 'none', '/var/log'])
  const log = await openAuditLog({ dir: '/var/log/agentjail', jail: 'bot', uid: 1 })
  log.write(Array.from({ length: 5_000 }, (_, i) => decision(i)))
  await log.close()
  const child = spawn(process.execPath, [bin, 'logs'], { stdio: ['ignore', 'pipe', 'pipe'] })
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text))
  await once(child.stdout, 'data')
  child.stdout.destroy()
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  process.stdout.write(JSON.stringify({ code, signal, complaint }))
  process.exit()
}

const noon = Date.parse('2026-01-31T12:00:00Z')

function output(more: { isTTY?: boolean; columns?: number; onWrite?: (all: string) => void } = {}) {
  const out = {
    text: '',
    write(text: string) {
      out.text += text
      more.onWrite?.(out.text)
    },
    ...(more.isTTY !== undefined && { isTTY: more.isTTY }),
    ...(more.columns !== undefined && { columns: more.columns }),
  }
  return out
}

function decision(port: number, verdict: 'allow' | 'deny' = 'allow'): Decision {
  return {
    verdict,
    reason: verdict === 'allow' ? 'granted' : 'port-not-granted',
    layer: 'tcp',
    direction: 'out',
    proto: 'tcp',
    name: 'api.example.com',
    port,
  }
}

t.test('human: bytes, durations, times', (t) => {
  const bytes: [number, string][] = [
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.0 kB'],
    [9_949, '9.9 kB'],
    [9_950, '10 kB'],
    [999_499, '999 kB'],
    [999_500, '1.0 MB'],
    [3.2e9, '3.2 GB'],
  ]
  for (const [value, text] of bytes) t.equal(formatBytes(value), text)
  const durations: [number, string][] = [
    [-5, '0s'],
    [59_999, '59s'],
    [60_000, '1m'],
    [3_599_000, '59m'],
    [3 * 3_600_000 + 5 * 60_000, '3h05m'],
    [4 * 86_400_000 + 2 * 3_600_000, '4d02h'],
  ]
  for (const [value, text] of durations) t.equal(formatDuration(value), text)
  t.equal(parseSince('10m', noon), noon - 600_000)
  t.equal(parseSince('30s', noon), noon - 30_000)
  t.equal(parseSince('2h', noon), noon - 7_200_000)
  t.equal(parseSince('2d', noon), noon - 172_800_000)
  t.equal(parseSince('2026-01-31T11:00:00Z', noon), noon - 3_600_000)
  for (const bad of ['', '10', 'm', '10 m', '-5m', 'yesterday', '2026-13-01', '2026', '1e3s']) {
    t.throws(() => parseSince(bad, noon), { code: 'USAGE' }, bad)
  }
  t.end()
})

t.test('logs: rotated files in order, jails merged by time, filtered', async (t) => {
  const dir = join(t.testdir(), 'log')
  let now = noon
  const options = { dir, uid: 1_900_000_000, maxBytes: 600, now: () => now }
  const bot = await openAuditLog({ ...options, jail: 'bot' })
  const other = await openAuditLog({ ...options, jail: 'other' })
  for (let i = 1; i <= 12; i++) {
    now += 60_000
    const log = i % 4 === 0 ? other : bot
    log.write([decision(i, i % 3 === 0 ? 'deny' : 'allow')])
    await log.flush()
  }
  now += 60_000
  bot.drop(5)
  await bot.close()
  await other.close()
  t.ok(fs.readdirSync(dir).length > 3, 'some are rotated')
  fs.appendFileSync(join(dir, 'bot.jsonl'), 'torn {"v":1,\n{"v":2}\n')
  fs.writeFileSync(join(dir, 'stranger.txt'), '{"v":1}\n')

  const ports = async (args: { name?: string; denied?: boolean; since?: string }) => {
    const stdout = output()
    const io = { stdout, stderr: output(), env: {} }
    await logsCommand({ follow: false, denied: false, json: true, dir, ...args }, io)
    const lines = stdout.text.split('\n').slice(0, -1)
    return lines.map((line) => {
      const { port, dropped } = JSON.parse(line) as { port?: number; dropped?: number }
      return port ?? `dropped ${String(dropped)}`
    })
  }
  const all = [...Array(12).keys()].map((i) => i + 1)
  t.strictSame(await ports({}), [...all, 'dropped 5'])
  t.strictSame(await ports({ name: 'other' }), [4, 8, 12])
  t.strictSame(await ports({ denied: true }), [3, 6, 9, 12, 'dropped 5'])
  t.strictSame(await ports({ since: '2026-01-31T12:10:00Z' }), [10, 11, 12, 'dropped 5'])
  await t.rejects(ports({ name: 'nobody' }), { code: 'NAME_UNKNOWN' })
  await t.rejects(ports({ name: '../x' }), { code: 'NAME_INVALID' })
  await t.rejects(ports({ since: 'noon' }), { code: 'USAGE' })
})

t.test('logs: for people, one line each, safe on a terminal', async (t) => {
  const dir = join(t.testdir(), 'log')
  const log = await openAuditLog({ dir, jail: 'bot', uid: 1, now: () => noon })
  log.write([
    { ...decision(22, 'deny'), pid: 7, command: 'ssh' },
    { ...decision(443), up: 1_234, down: 56_789 },
    { ...decision(443, 'deny'), layer: 'dns', name: 'a\u001b[2J.example', count: 4 },
  ])
  log.drop(2)
  await log.close()
  const stdout = output()
  const io = { stdout, stderr: output(), env: {} }
  await logsCommand({ follow: false, denied: false, json: false, dir }, io)
  t.equal(
    stdout.text,
    `2026-01-31 12:00:00 bot denied  api.example.com:22 - the policy grants no such port - pid 7 ssh
2026-01-31 12:00:00 bot allowed api.example.com:443 - 1.2 kB sent, 57 kB received
2026-01-31 12:00:00 bot denied  look-up a\\x1b[2J.example (4 times) - the policy grants no such port
2026-01-31 12:00:00 bot 2 records are missing here
`,
  )
  const head = '{"v":1,"time":"2026-01-31T12:00:00.000Z","jail":"b","uid":1,'
  t.equal(parseRecord(`${head}"verdict":"allow"}`), undefined, 'half a record is none')
  t.strictSame(parseRecord(`${head}"dropped":3}`)?.jail, 'b')
})

t.test('logs: --follow goes on through rotation and to new jails', async (t) => {
  const dir = join(t.testdir(), 'log')
  const log = await openAuditLog({ dir, jail: 'bot', uid: 1, maxBytes: 400 })
  log.write([decision(1)])
  await log.flush()
  const end = new AbortController()
  const deadline = setTimeout(() => {
    end.abort()
  }, 20_000)
  const seen = () => [...stdout.text.matchAll(/"port":(\d+)/g)].map(([, port]) => Number(port))
  let step = 0
  const stdout = output({
    onWrite: () => {
      // What was written is seen, then more is written: no clock involved.
      const count = seen().length
      if (count > step) {
        step = count
        void next(count)
      }
    },
  })
  const late = async () => {
    const second = await openAuditLog({ dir, jail: 'late', uid: 2 })
    second.write([decision(99)])
    await second.close()
  }
  const next = async (count: number): Promise<void> => {
    if (count <= 5) {
      log.write([decision(count + 1)])
      await log.flush()
    } else if (count === 6) await late()
    else end.abort()
  }
  const io = { stdout, stderr: output(), env: {}, signal: end.signal }
  await logsCommand({ follow: true, denied: false, json: true, dir }, io)
  clearTimeout(deadline)
  await log.close()
  t.strictSame(seen(), [1, 2, 3, 4, 5, 6, 99])
  t.ok(fs.existsSync(join(dir, 'bot.2.jsonl')), 'it was rotated meanwhile')
})

t.test('status: a table that fits the terminal', async (t) => {
  const jail = (name: string, more: Partial<JailStatus> = {}): JailStatus => ({
    name,
    policy: 'openai-telegram',
    user: `aj-${name}`,
    uid: 1_900_000_000,
    pid: 4_194_303,
    isolation: 'namespace',
    phase: 'running',
    since: noon - 3_700_000,
    command: ['node', 'bot.js'],
    allowed: 12_345,
    denied: 6,
    up: 1_234_567,
    down: 89,
    pins: 4,
    warnings: [],
    ...more,
  })
  const jails = [
    jail('writer', { warnings: ['the rules were gone for 0.4 s and are back'] }),
    jail('a-name-of-twenty-five-char', { phase: 'starting' }),
  ]
  t.equal(renderStatus([], { now: noon, colour: false }), 'no jail is running\n')
  t.equal(
    renderStatus(jails, { now: noon, colour: false }),
    `NAME                        POLICY           USER                               PID        UP  ALLOWED  DENIED    SENT  RECEIVED  PINS
a-name-of-twenty-five-char  openai-telegram  aj-a-name-of-twenty-five-char  4194303  starting    12345       6  1.2 MB      89 B     4
writer                      openai-telegram  aj-writer                      4194303     1h01m    12345       6  1.2 MB      89 B     4
  ! the rules were gone for 0.4 s and are back
`,
  )
  for (const columns of [120, 80, 60, 40, 20]) {
    const lines = renderStatus(jails, { now: noon, colour: false, columns }).split('\n')
    const table = lines.filter((line) => !line.startsWith('  !'))
    t.ok(Math.max(...table.map(({ length }) => length)) <= columns, `${String(columns)} columns`)
    t.match(lines.join('\n'), 'gone for 0.4 s and are back', 'a warning stays whole')
  }
  const stdout = output()
  const io = { stdout, stderr: output(), env: {} }
  t.equal(await statusCommand({ watch: false, json: true }, io, () => Promise.resolve(jails)), 0)
  const since = '2026-01-31T10:58:20.000Z'
  const told = jails.map((one) => ({ ...one, since }))
  t.strictSame(JSON.parse(stdout.text), told, 'a time as in the log')

  const end = new AbortController()
  let reads = 0
  const terminal = output({ isTTY: true, columns: 80 })
  const watching = {
    stdout: terminal,
    stderr: output(),
    env: { NO_COLOR: '1' },
    signal: end.signal,
  }
  await statusCommand({ watch: true, json: false }, watching, () => {
    reads += 1
    if (reads === 2) end.abort()
    return Promise.resolve(jails)
  })
  t.equal(terminal.text.split('\u001b[H\u001b[J').length, 3, 'two pictures')
  t.notMatch(terminal.text, '\u001b[1m', 'NO_COLOR is kept')
})

t.test('logs: a reader that goes away ends it quietly', (t) => {
  const args = ['--mount', process.execPath, self, 'reader']
  const told = execFileSync('/usr/bin/unshare', args, { encoding: 'utf8', timeout: 30_000 })
  t.strictSame(JSON.parse(told), { code: 0, signal: null, complaint: '' })
  t.end()
})
