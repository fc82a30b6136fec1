/**
 * Runs every test file in a plain Node, one at a time (they share the kernel's control groups and process ids), and closes with one line: `N passed, N failed`.
 * Not through tap's own runner: it adds an import to every Node that a test starts, and those are the very processes
 * under test. A file that fails, ends without a plan, is cut off by its time-out or asserts nothing counts as failed.
 */
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

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

function runFile(file: string): Promise<Outcome> {
  const started = performance.now()
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [file], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TAP_TIMEOUT: String(timeout), NODE_OPTIONS: '' },
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
        file: relative(testDir, file),
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

const wanted = process.argv.slice(2)
const queue = readdirSync(testDir, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.test.js') && !name.startsWith('fixtures/'))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
  .sort()
  .map((name) => join(testDir, name))
const outcomes: Outcome[] = []
for (const file of queue) {
  const outcome = await runFile(file)
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
