/**
 * Signals and job control, as if the command had been started bare.
 * Warden and command share the terminal's foreground group, so a Ctrl-C reaches both; a signal sent to the warden alone
 * reaches only it. PID 1 of the jail is in the group too and tells what it saw: that tells the two cases apart.
 * Invariant: the command gets each signal once.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Ending, Running } from '../launch/types.js'

const forwarded = [
  'SIGINT',
  'SIGTERM',
  'SIGHUP',
  'SIGQUIT',
  'SIGUSR1',
  'SIGUSR2',
  'SIGWINCH',
  'SIGCONT',
  'SIGTSTP',
  // A command that reads the terminal from the background: its stop is told, and stops the warden then.
  'SIGTTIN',
  'SIGTTOU',
  'SIGALRM',
] as const satisfies readonly NodeJS.Signals[]

/** Milliseconds within which PID 1's word of a group signal arrives. */
const groupWindow = 40
/** Milliseconds from the command's stop to the warden's own: what stopped the one has reached the other by then. */
const stopWindow = 20
/** What stops a process, and can be held. */
const stopSignals: readonly NodeJS.Signals[] = ['SIGTSTP', 'SIGTTIN', 'SIGTTOU']

export interface SignalRelay {
  /** From here on signals go to this command; those that came before are delivered first. */
  attach(running: Running): void
  detach(): void
}

/** Installed before anything is changed, so that no signal can end the warden half-way. */
export function relaySignals(): SignalRelay {
  const pending: NodeJS.Signals[] = []
  const seenByGroup = new Map<NodeJS.Signals, number>()
  let running: Running | undefined
  /** How often the command was stopped. */
  let stops = 0
  let stopping: NodeJS.Timeout | undefined

  const stop = (): void => {
    stops++
    clearTimeout(stopping)
    stopping = setTimeout(() => {
      // After this turn's signals: one that is heard only when it goes on would stop the command again.
      setImmediate(() => {
        if (stopping === undefined) return
        // The caller's shell waits for this process: it must see its job stop when the command does.
        process.kill(process.pid, 'SIGSTOP')
        stopping = undefined
      })
    }, stopWindow)
  }

  const deliver = async (signal: NodeJS.Signals): Promise<void> => {
    if (running === undefined) {
      pending.push(signal)
      return
    }
    const isStop = stopSignals.includes(signal)
    // The command has stopped for it already.
    if (isStop && stopping !== undefined) return
    if (signal === 'SIGCONT') {
      clearTimeout(stopping)
      stopping = undefined
    }
    const before = stops
    await delay(groupWindow)
    if (isStop && stops !== before) return
    const seen = seenByGroup.get(signal) ?? 0
    if (seen > 0) seenByGroup.set(signal, seen - 1)
    else running.signal(signal)
  }
  const handlers = forwarded.map((signal) => {
    const handler = (): void => void deliver(signal)
    process.on(signal, handler)
    return [signal, handler] as const
  })
  return {
    attach: (command) => {
      running = command
      command.onGroupSignal((signal) => {
        seenByGroup.set(signal, (seenByGroup.get(signal) ?? 0) + 1)
        // Told, but never received here (it was sent to the command's group alone): forget it.
        setTimeout(() => seenByGroup.set(signal, 0), 4 * groupWindow).unref()
      })
      command.onStopped(stop)
      for (const signal of pending) command.signal(signal)
    },
    detach: () => {
      clearTimeout(stopping)
      stopping = undefined
      for (const [signal, handler] of handlers) process.off(signal, handler)
    },
  }
}

/** Ends this process as the command ended: the same signal at once, the same code when it exits. */
export function endLike(ending: Ending): void {
  if ('code' in ending) {
    process.exitCode = ending.code
    return
  }
  process.removeAllListeners(ending.signal)
  process.exitCode = 128
  process.kill(process.pid, ending.signal)
}
