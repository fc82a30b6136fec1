/**
 * Runs every test file in a plain Node, one at a time (they share the kernel's control groups and process ids), and closes with one line: `N passed, N failed`.
 * Not through tap's own runner: it adds an import to every Node that a test starts, and those are the very processes
 * under test. A file that fails, ends without a plan, is cut off by its time-out or asserts nothing counts as failed.
 */
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

/** These know no firewall but the one of the lab they are in: they run on each with `--firewalls`. */
const anyFirewall =
  /^system\/(escapes|faults|learn|loopback|many|reload|run|tools|verify)\.test\.js$/
/** Of them, what runs on iptables in every whole run: changes of rules, and what is let through. */
const always = /^system\/(loopback|reload)\.test\.js$/
const otherFirewalls = ['iptables-nft', 'iptables-legacy'] as const

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const testDir = join(root, 'dist/test')
/** Seconds; the slowest files build several labs on a busy machine. */
const timeout = 900

interface Outcome {
  readonly file: string
  readonly passed: number
  readonly failed: number
  readonly seconds: number
  readonly output: string
}

/** Leaf assertions: a line that closes a subtest only repeats what is inside it. */
function countLeaves(text: string): { passed: number; failed: number; planned: boolean } {
  let passed = 0
  let failed = 0
  let deepest = 0
  for (const line of text.split('\n')) {
    const match = /^( *)(not )?ok \d+(.*)$/.exec(line)
    if (match === null) continue
    const [, indent = '', not, rest = ''] = match
    const isSummary = indent.length < deepest
    deepest = indent.length
    if (isSummary) continue
    if (not === undefined) passed++
    else if (!/# TODO\b/i.test(rest)) failed++
  }
  return { passed, failed, planned: /^1\.\.\d+/m.test(text) }
}

function runFile({ file, firewall }: Job): Promise<Outcome> {
  const started = performance.now()
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [file], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        TAP_TIMEOUT: String(timeout),
        NODE_OPTIONS: '',
        ...firewallEnv(firewall),
      },
    })
    let output = ''
    const add = (text: string): void => {
      output += text
    }
    child.stdout.setEncoding('utf8').on('data', add)
    child.stderr.setEncoding('utf8').on('data', add)
    const timer = setTimeout(() => child.kill('SIGKILL'), (timeout + 30) * 1000)
    child.on('close', (code) => {
      clearTimeout(timer)
      const { passed, failed, planned } = countLeaves(output)
      const isBroken = failed === 0 && (code !== 0 || !planned || passed === 0)
      const seconds = (performance.now() - started) / 1000
      resolve({
        file: relative(testDir, file) + (firewall === undefined ? '' : ` on ${firewall}`),
        passed,
        failed: failed + (isBroken ? 1 : 0),
        seconds,
        output,
      })
    })
  })
}

/** The part of a TAP stream around what failed. */
function excerpt(output: string): string {
  const lines = output.split('\n')
  const failures = lines.flatMap((line, index) => (/^ *not ok/.test(line) ? [index] : []))
  const shown = failures.flatMap((index) => lines.slice(index, index + 30)).slice(0, 200)
  return (shown.length > 0 ? shown : lines.slice(-60)).join('\n')
}

interface Job {
  readonly file: string
  /** Absent: as the environment says, else nftables. */
  readonly firewall?: string
}

const firewallEnv = (firewall: string | undefined) =>
  firewall === undefined ? {} : { AGENTJAIL_BACKEND: firewall }

const onAll = process.argv.includes('--firewalls')
const wanted = process.argv.slice(2).filter((word) => word !== '--firewalls')
const files = readdirSync(testDir, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.test.js') && !name.startsWith('fixtures/'))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
  .sort()
const again = files.filter((name) =>
  onAll ? anyFirewall.test(name) : wanted.length === 0 && always.test(name),
)
const queue: Job[] = [
  ...(onAll ? files.filter((name) => anyFirewall.test(name)) : files).map((file) => ({ file })),
  // A whole run has one of each; the whole matrix takes three times as long.
  ...again.flatMap((file, n) =>
    (onAll ? otherFirewalls : [otherFirewalls[n % 2] ?? otherFirewalls[0]]).map((firewall) => ({
      file,
      firewall,
    })),
  ),
].map((job) => ({ ...job, file: join(testDir, job.file) }))
const outcomes: Outcome[] = []
for (const job of queue) {
  const outcome = await runFile(job)
  outcomes.push(outcome)
  const state = outcome.failed === 0 ? 'ok    ' : 'FAILED'
  process.stdout.write(
    `${state} ${outcome.file} (${outcome.passed} passed, ${outcome.failed} failed, ${outcome.seconds.toFixed(1)} s)\n`,
  )
  if (outcome.failed > 0) process.stdout.write(`${excerpt(outcome.output)}\n`)
}

const sum = (member: 'passed' | 'failed'): number =>
  outcomes.reduce((total, outcome) => total + outcome[member], 0)
process.stdout.write(
  `${outcomes.length} test files\n${sum('passed')} passed, ${sum('failed')} failed\n`,
)
process.exitCode = sum('failed') === 0 && sum('passed') > 0 ? 0 : 1
