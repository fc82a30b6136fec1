/**
 * A launch that is called off, at instants all over its steps: it ends, and nothing of it is left. Judge: /proc.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { launch } from '../lib/launch/launch.js'
import type { LaunchSpec } from '../lib/launch/types.js'
import type { GateConfig } from '../lib/gate/protocol.js'
import { gatePolicy } from '../lib/plan/compile.js'
import { loadPolicy } from '../lib/policy/loader.js'
import { packageRoot } from '../lib/session/host.js'
import { spawnGate } from '../lib/session/gate-process.js'
import { findTools } from '../lib/system/tools.js'
import { makePlace, specText, until } from './launch-support.js'

const place = makePlace()
t.teardown(() => place.remove())
const text = specText(place, ['sleep', '60'])
const { env, stagingDir, ...spec } = JSON.parse(text) as Omit<LaunchSpec, 'env'> & {
  env: [string, string][]
  stagingDir: string
}
const found = findTools(['perl', 'setpriv', 'unshare', 'bwrap', 'nsenter'])
const tools = {
  perl: found.get('perl'),
  setpriv: found.get('setpriv'),
  unshare: found.get('unshare'),
  bwrap: found.get('bwrap'),
  nsenter: found.get('nsenter'),
  node: process.execPath,
  namespaces: true,
  caDir: '/run/agentjail-none',
  stagingDir,
}

/** Whatever has the launch's mounts, be it stuck half-way and without a parent. */
const left = (): string[] =>
  readdirSync('/proc').filter((pid) => {
    try {
      return (
        /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/mountinfo`, 'utf8').includes(stagingDir)
      )
    } catch {
      return false
    }
  })

/** Milliseconds: bounds a hang, judges no speed. */
const bound = 20_000

t.test('at any instant', { timeout: 240_000 }, async (t) => {
  for (const isolation of ['namespace', 'basic'] as const) {
    // At last all steps wait for the word: the kernel ends them in no order.
    const instants = [
      ...Array.from({ length: 60 }, (_, n) => n * 0.4),
      ...Array<number>(20).fill(120),
    ]
    for (const instant of instants) {
      const go = sleep(instant).then(() => Promise.reject(new Error('called off')))
      const ended = launch({ ...spec, isolation, env: new Map(env) }, tools, go).then(
        () => 'it ran',
        (error: unknown) => (error instanceof Error ? error.message : ''),
      )
      const late = new AbortController()
      const outcome = await Promise.race([ended, sleep(bound, 'it hangs', { signal: late.signal })])
      late.abort()
      t.equal(outcome, 'called off', `${isolation}, after ${String(instant)} ms`)
    }
    await until(`nothing of ${isolation} is left`, () => left().length === 0)
    t.same(left(), [])
  }
})

/** Processes of this agentjail's gates: in the chain that starts one, the gate's main file stands in each argv. */
const gates = (): string[] =>
  readdirSync('/proc').filter((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      return (
        /^\d+$/.test(pid) && words.includes(packageRoot) && /gate(\/main\.js|\.cjs)\0/.test(words)
      )
    } catch {
      return false
    }
  })

const config: GateConfig = {
  ...{ jail: 'called-off', mode: 'redirect', hostAddresses: [], upstreams: [], listeners: [] },
  policy: gatePolicy(await loadPolicy('openai'), []),
  wantCa: false,
}

t.test('a gate that is killed while it starts', { timeout: 120_000 }, async (t) => {
  let seen = 0
  for (let n = 0; n < 60; n++) {
    const gate = spawnGate({ tools, specs: [], user: { uid: 1_900_099_872, gid: 1_900_099_872 } })
    const gone = new Promise<void>((resolve) => {
      gate.onExit(() => {
        resolve()
      })
    })
    // It becomes the gate only with something to do.
    gate.start(config).catch(() => undefined)
    await sleep(n * 0.5)
    seen += gates().length
    gate.kill()
    await gone
  }
  t.ok(seen > 0, 'the chain was seen before it was killed')
  await until('no gate is left', () => gates().length === 0)
  t.same(gates(), [])
})
