/**
 * A stand-in for the session: launches one spec (JSON in AGENTJAIL_TEST_SPEC), passes signals on as a
 * session does, prints events as JSON lines on descriptor 3 and ends as the command did.
 */
import { writeSync } from 'node:fs'
import { launch } from '../lib/launch/launch.js'
import type { LaunchSpec } from '../lib/launch/types.js'
import { findTools } from '../lib/system/tools.js'

interface Given extends Omit<LaunchSpec, 'env'> {
  readonly env: readonly [string, string][]
  readonly stagingDir: string
}

const programs = ['perl', 'unshare', 'bwrap'] as const
type Programs = Readonly<Record<(typeof programs)[number], string>>

const given = JSON.parse(process.env['AGENTJAIL_TEST_SPEC'] ?? '') as Given
const events = process.env['AGENTJAIL_TEST_EVENTS'] === undefined ? undefined : 3
const tell = (event: object): void => {
  if (events !== undefined) writeSync(events, `${JSON.stringify(event)}\n`)
}

try {
  const found = findTools(programs)
  const launched = launch(
    { ...given, env: new Map(given.env) },
    {
      ...(Object.fromEntries(programs.map((name) => [name, found.get(name)])) as Programs),
      namespaces: true,
      caDir: '/run/agentjail-none',
      stagingDir: given.stagingDir,
    },
  )
  const seen = new Map<string, number>()
  // Before the command can say that it is there, and be sent one.
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGQUIT'] as const) {
    process.on(signal, () => {
      // What PID 1 saw too went to the whole group: the command has it already.
      setTimeout(() => {
        const count = seen.get(signal) ?? 0
        if (count > 0) seen.set(signal, count - 1)
        else void launched.then((running) => running.signal(signal))
      }, 30)
    })
  }
  const running = await launched
  tell({
    type: 'started',
    commandPid: running.commandPid,
    initPid: running.initPid,
    notes: running.notes,
  })
  running.onGroupSignal((signal) => {
    seen.set(signal, (seen.get(signal) ?? 0) + 1)
    tell({ type: 'group', signal })
  })
  running.onStopped((signal) => {
    tell({ type: 'stopped', signal })
    process.kill(process.pid, 'SIGSTOP')
  })
  running.onContinued(() => {
    tell({ type: 'continued' })
  })
  // Only the command's own stop stops the warden: else fg would find its report and stop again.
  for (const signal of ['SIGTSTP', 'SIGTTIN', 'SIGTTOU'] as const)
    process.on(signal, () => undefined)
  const ending = await running.ended
  tell({ type: 'ended', ...ending, limits: await running.limitsHit() })
  if ('code' in ending) process.exit(ending.code)
  process.exit(99)
} catch (error) {
  tell({ type: 'error', message: String(error) })
  process.exit(125)
}
