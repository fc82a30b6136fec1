/** Death of any part: the warden at any instant. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { collect, eventually, nothingLeft, silence, type Host } from './host.js'

/** Of random instants; printed where it is used, and taken from AGENTJAIL_SEED to repeat a run. */
export const seed = Number(process.env['AGENTJAIL_SEED'] ?? Math.floor(Math.random() * 2 ** 31))

/** Numbers that look random and are the same in each run (mulberry32). */
export const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let x = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
  return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
}

/**
 * SIGKILL at `kills` instants of a start, a run and, each third time, an end. `within`: milliseconds that a start takes
 * at most; every instant of them is as likely. The command and the gate end by themselves, or are ended by `gc`.
 */
export async function wardenKilled(
  t: Test,
  host: Host,
  { kills, within, endByThemselves }: { kills: number; within: number; endByThemselves: boolean },
): Promise<void> {
  const next = random(seed)
  let [reached, stopping] = [0, 0]
  t.comment(`AGENTJAIL_SEED=${String(seed)}`)
  const areGone = async (): Promise<boolean> =>
    (await host.jailed()) === 0 && (await host.gates()) === 0
  for (let n = 0; n < kills; n++) {
    const jail = host.start(...host.prefix, '--', ...host.restless)
    if (n % 3 === 2) {
      await jail.until(/started/)
      jail.kill('SIGTERM')
      await sleep((next() * within) / 10)
      stopping++
    } else await sleep(next() * within)
    jail.kill('SIGKILL')
    await jail.ended
    if (jail.stdout().includes('started')) reached++
    if (!endByThemselves) await collect(t, host, `kill ${String(n)}`)
    t.ok(await eventually(areGone), `kill ${String(n)}: the command and the gate ended`)
  }
  t.ok(
    reached > 0,
    `${String(reached)} of ${String(kills)} were killed after the launch, ${String(stopping)} while ending`,
  )
  await collect(t, host, 'kills')
  await nothingLeft(t, host, `${String(kills)} kills`)
  await silence(t, host, `${String(kills)} kills`)
}
