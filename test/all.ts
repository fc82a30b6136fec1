/**
 * Runs every test file with tap and closes with one line: `N passed, N failed`.
 * A file that ends without a plan, is cut off by its time-out, or asserts nothing counts as failed.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const output = join(root, '.tap/all.tap')

mkdirSync(dirname(output), { recursive: true })
rmSync(output, { force: true })
const done = spawnSync(
  process.execPath,
  [
    join(root, 'node_modules/tap/dist/esm/run.mjs'),
    '--reporter=terse',
    `--output-file=${output}`,
    ...process.argv.slice(2),
  ],
  { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], timeout: 60 * 60_000 },
)

/** Leaf assertions: a line that closes a subtest only repeats what is inside it. */
function countLeaves(text: string): { passed: number; failed: number; files: number } {
  let passed = 0
  let failed = 0
  let files = 0
  let deepest = 0
  for (const line of text.split('\n')) {
    const match = /^( *)(not )?ok \d+(.*)$/.exec(line)
    if (match === null) continue
    const [, indent = '', not, rest = ''] = match
    const depth = indent.length
    if (depth === 0) files++
    // The summary of a subtest follows its deeper lines.
    if (depth < deepest) {
      deepest = depth
      if (not !== undefined && depth === 0) failed++
      continue
    }
    deepest = depth
    if (not === undefined) passed++
    else if (!/# TODO\b/i.test(rest)) failed++
  }
  return { passed, failed, files }
}

const { passed, failed, files } = countLeaves(readFileSync(output, 'utf8'))
const broken = done.status !== 0 && failed === 0 ? 1 : 0
process.stdout.write(`${files} test files\n${passed} passed, ${failed + broken} failed\n`)
process.exitCode = done.status === 0 && failed === 0 && passed > 0 ? 0 : 1
