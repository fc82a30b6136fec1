/**
 * What differs by the version of Node once more, in the current LTS: parsers and streams of the gate, and a jail's whole way.
 * Every other test runs in the Node that started it.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { root } from './lab/paths.js'

const node = join(root, `test/newer-node/node_modules/node-linux-${process.arch}/bin/node`)
const files = [
  ...['gate-relay', 'gate-retry', 'gate-sni', 'http-attack', 'http-clients', 'http-credentials'],
  ...['http-floods', 'http-flow', 'http-frames', 'policy-hosts', 'policy', 'fork-server'],
  ...['launch-terminal', 'system/loopback', 'system/reload'],
]

t.setTimeout(600_000)
t.test('the current LTS', (t) => {
  const { stdout } = spawnSync(node, ['--version'], { encoding: 'utf8' })
  t.match(stdout, /^v2[6-9]\./, 'it is there: node dist/test/prepare.js gets it')
  t.not(stdout.trim(), process.version, 'and is another one')
  for (const file of files) {
    const done = spawnSync(node, [join(root, `dist/test/${file}.test.js`)], {
      encoding: 'utf8',
      timeout: 120_000,
    })
    t.match(done.stdout, /^# \{ total: [1-9]\d*, pass: [1-9]/m, `${file}: it asserts something`)
    t.equal(done.status, 0, `${file}: ${done.stdout.match(/^ *not ok .*$/gm)?.join('; ') ?? ''}`)
  }
  t.end()
})
