/**
 * A launch that is called off, at instants all over its steps: it ends, and nothing of it is left. Judge: /proc.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { launch } from '../lib/launch/launch.js'
import type { LaunchSpec } from '../lib/launch/types.js'
import { findTools } from '../lib/system/tools.js'
import { makePlace, specText, until } from './launch-support.js'

const place = makePlace()
t.teardown(() => place.remove())
const text = specText(place, ['sleep', '60'])
const { env, stagingDir, ...spec } = JSON.parse(text) as Omit<LaunchSpec, 'env'> & {
  env: [string, string][]
  stagingDir: string
}
const found = findTools(['perl', 'setpriv', 'unshare', 'bwrap'])
const tools = {
  perl: found.get('perl'),
  setpriv: found.get('setpriv'),
  unshare: found.get('unshare'),
  bwrap: found.get('bwrap'),
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
    for (let n = 0; n < 60; n++) {
      const go = sleep(n * 0.4).then(() => Promise.reject(new Error('called off')))
      const ended = launch({ ...spec, isolation, env: new Map(env) }, tools, go).then(
        () => 'it ran',
        (error: unknown) => (error instanceof Error ? error.message : ''),
      )
      const late = new AbortController()
      const outcome = await Promise.race([ended, sleep(bound, 'it hangs', { signal: late.signal })])
      late.abort()
      t.equal(outcome, 'called off', `${isolation}, after ${String(n * 0.4)} ms`)
    }
    await until(`nothing of ${isolation} is left`, () => left().length === 0)
    t.same(left(), [])
  }
})
