/**
 * The texts in perl hold under `strict`, which they do not load where they run. Judge: perl.
 */
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { forkServerScript } from '../lib/launch/fork-server-script.js'
import { initScript, outerScript } from '../lib/launch/step-scripts.js'
import { gateScript } from '../lib/session/gate-script.js'

/** What one of them keeps as a string, to be parsed later, is parsed where it stands. */
const whole = (text: string): string =>
  text.replace(/^my \$(\w+) = <<'(\w+)';\n([^]*?)^\2\n([^]*?)^eval \$\1;$/m, '$3$4')

const texts = { forkServerScript, outerScript, initScript, gateScript }

t.test('under strict', (t) => {
  for (const [name, text] of Object.entries(texts)) {
    const { status, stderr } = spawnSync('perl', ['-Mstrict', '-c', '-e', whole(text)], {
      encoding: 'utf8',
    })
    t.equal(stderr, '-e syntax OK\n', name)
    t.equal(status, 0, name)
    t.notMatch(whole(text), /<<'/, `${name} is looked at whole`)
    t.notMatch(text, /^use /m, `${name} loads nothing`)
  }
  t.end()
})
