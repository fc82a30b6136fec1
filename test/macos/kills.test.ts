/**
 * Commands, wardens and gates killed at any instant, on a modelled Mac with real processes. Judge: after every command
 * that macOS is given, pf as the evaluator sees it lets no jail's user reach what its policy does not grant; and what the
 * next command of agentjail leaves is what was there before. AGENTJAIL_KILLS: how many of each.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { random, seed, wardenKilled } from '../scenarios/death.js'
import { nothingLeft, silence, type Started } from '../scenarios/host.js'
import { openMacHost } from './mac-host.js'

t.setTimeout(3_600_000)
const kills = Number(process.env['AGENTJAIL_KILLS'] ?? 3)
/** Milliseconds in which a command ends on an idle machine. */
const within = 2_000
const host = await openMacHost()
t.teardown(() => {
  host.mac.close()
})
const install = ['service', 'install', 'bot', '-p', 'openai', '--', '/bin/sleep', '300'] as const

const running = async (): Promise<Started> => {
  const jail = host.start(...host.prefix, '--', ...host.restless)
  await jail.until(/started/)
  return jail
}

/** A jail, or its end, is not the killed command's to undo. */
const stopped = async (jail: Started | undefined): Promise<void> => {
  await host.agentjail('stop', 'faults')
  await jail?.ended
}

interface Killed {
  readonly args: readonly string[]
  /** What is there when it starts. */
  readonly prepare?: () => Promise<Started | undefined>
  /** What a person types next. */
  readonly mend: (jail: Started | undefined) => Promise<unknown>
}

const commands: Readonly<Record<string, Killed>> = {
  setup: { args: ['setup'], mend: () => host.agentjail('setup') },
  gc: { args: ['gc'], mend: () => host.agentjail('gc') },
  stop: { args: ['stop', 'faults'], prepare: running, mend: stopped },
  reload: { args: ['reload', 'faults'], prepare: running, mend: stopped },
  allow: { args: ['allow', 'faults', 'a.example'], prepare: running, mend: stopped },
  'service install': { args: install, mend: () => host.agentjail('service', 'uninstall', 'bot') },
  'service uninstall': {
    args: ['service', 'uninstall', 'bot'],
    prepare: async () => {
      await host.agentjail(...install)
      return undefined
    },
    mend: () => host.agentjail('service', 'uninstall', 'bot'),
  },
}

const killed = async (args: readonly string[], after: number): Promise<void> => {
  const command = host.start(...args)
  await sleep(after)
  command.kill('SIGKILL')
  await command.ended
}

t.test('the warden', (t) => wardenKilled(t, host, { kills, within: 3_000, endByThemselves: false }))

t.test('the gate of a jail that runs', async (t) => {
  for (let n = 0; n < kills; n++) {
    const jail = await running()
    await host.run('/usr/bin/pkill', '-KILL', '-u', '450')
    t.match((await jail.ended).stderr, /the gate ended: .*the command is ended/s, String(n))
    await nothingLeft(t, host, `gate ${String(n)}`)
  }
  await silence(t, host, 'gates')
})

t.test('any other command', async (t: Test) => {
  const next = random(seed)
  t.comment(`AGENTJAIL_SEED=${String(seed)}`)
  for (let n = 0; n < Math.max(1, Math.ceil(kills / Object.keys(commands).length)); n++)
    for (const [name, { args, prepare, mend }] of Object.entries(commands)) {
      const jail = await prepare?.()
      await killed(args, next() * within)
      await mend(jail)
      t.match(await host.agentjail('gc'), { code: 0 }, name)
      await nothingLeft(t, host, name)
      await silence(t, host, name)
    }
})

t.test('uninstall: whatever is gone, setup puts back', async (t) => {
  const next = random(seed + 1)
  for (let n = 0; n < Math.max(1, Math.ceil(kills / 4)); n++) {
    await killed(['uninstall'], next() * within)
    t.match(await host.agentjail('setup'), { code: 0 })
    // Without the deny, which went with its users, everything was open.
    await host.leaked()
    t.match(await host.agentjail(...host.prefix, '--', 'true'), { code: 0 })
    await nothingLeft(t, host, 'uninstall')
    await silence(t, host, 'after setup')
  }
})

t.test('the judge', (t) => {
  t.comment(`pf judged after ${String(host.judged.commands)} commands of macOS`)
  t.ok(host.judged.open > 0, 'what is granted was open meanwhile')
  t.end()
})
