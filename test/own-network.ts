import { execFileSync, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const mark = 'AGENTJAIL_TEST_NAMESPACE'

/**
 * A test file again, in a network namespace of its own with `lo` up: nothing of the machine is touched, and no rule of
 * the machine (agentjail's own deny of the reserved uids, where it is set up) judges what the test does. Needs root.
 * `true` within; outside, `false` once the inner run has ended, and its exit code is this process's.
 */
export function isInOwnNetwork(testUrl: string, { timeout }: { timeout: number }): boolean {
  if (process.env[mark] !== undefined) {
    execFileSync('/usr/sbin/ip', ['link', 'set', 'lo', 'up'])
    return true
  }
  const inner = spawnSync(
    '/usr/bin/unshare',
    ['--net', '--fork', '--kill-child', '--', process.execPath, fileURLToPath(testUrl)],
    { stdio: 'inherit', env: { ...process.env, [mark]: '1' }, timeout },
  )
  if (inner.error !== undefined) throw inner.error
  process.exitCode = inner.status ?? 1
  return false
}
