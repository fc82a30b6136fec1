/**
 * On a real Mac, as root: loads each golden file into an anchor that nothing calls, and compares pfctl's listing
 * with the one agentjail expects. `sudo node dist/test/macos/real-listing.js test/golden/*.pf`
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { findDifference, parseServices } from '../../lib/backend/pf/listing.js'
import { formatRule } from './model/pf/format.js'
import { parsePf } from './model/pf/parse.js'
import { noNames } from './rulesets.js'

// Directly below the root and called by no rule: loaded, never evaluated.
const anchor = 'agentjail-check'
const pfctl = (
  args: readonly string[],
  input = '',
): { status: number | null; stdout: string; stderr: string } =>
  spawnSync('/sbin/pfctl', ['-q', '-a', anchor, ...args], { input, encoding: 'utf8' })

const services = parseServices(readFileSync('/etc/services', 'utf8'))
let failures = 0
for (const file of process.argv.slice(2)) {
  const text = readFileSync(file, 'utf8')
  const { statements } = parsePf(text, noNames)
  const loaded = pfctl(['-o', 'none', '-f', '-'], text)
  const of = (kind: string): string[] =>
    statements.filter((rule) => rule.kind === kind).map((rule) => formatRule(rule, new Map()))
  const difference =
    loaded.status === 0
      ? (findDifference(of('filter'), pfctl(['-s', 'rules']).stdout, services) ??
        findDifference(of('rdr'), pfctl(['-s', 'nat']).stdout, services))
      : loaded.stderr
  console.log(
    `${difference === undefined ? 'ok    ' : 'NOT OK'} ${file}${difference === undefined ? '' : `: ${difference}`}`,
  )
  if (difference !== undefined) failures++
}
pfctl(['-F', 'all'])
process.exitCode = failures === 0 ? 0 : 1
