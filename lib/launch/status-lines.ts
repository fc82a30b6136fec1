/**
 * Reads the status pipe of the launch steps.
 * Invariant: only root's own steps write there; a line that is not known is an error, never ignored.
 */
import { constants } from 'node:os'

export type Status =
  | { readonly type: 'started'; readonly innerPid: number }
  | { readonly type: 'execfail'; readonly errno: number }
  | { readonly type: 'stopped' | 'signaled' | 'group-signal'; readonly signal: NodeJS.Signals }
  | { readonly type: 'continued' }
  /** A limit was reached: the path of a file system, or `files` for the open files of a process. */
  | { readonly type: 'full'; readonly what: string }
  | { readonly type: 'exit'; readonly code: number }
  | { readonly type: 'error'; readonly text: string }

const names = new Map(
  Object.entries(constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]),
)

/** The name of a signal's number; a real-time signal has none, and counts as SIGKILL. */
export function signalName(number: number): NodeJS.Signals {
  return names.get(number) ?? 'SIGKILL'
}

export function parseStatus(line: string): Status {
  const space = line.indexOf(' ')
  const word = space < 0 ? line : line.slice(0, space)
  const rest = space < 0 ? '' : line.slice(space + 1)
  if (word === 'error') return { type: 'error', text: rest }
  if (word === 'full' && /^(files|(\/[a-z]+)+)$/.test(rest)) return { type: 'full', what: rest }
  if (word === 'continued') return { type: 'continued' }
  if (/^\d{1,9}$/.test(rest)) {
    const number = Number(rest)
    if (word === 'started') return { type: 'started', innerPid: number }
    if (word === 'execfail') return { type: 'execfail', errno: number }
    if (word === 'exit') return { type: 'exit', code: number }
    if (word === 'stopped' || word === 'signaled') {
      return { type: word, signal: signalName(number) }
    }
    if (word === 'sig') return { type: 'group-signal', signal: signalName(number) }
  }
  return { type: 'error', text: `unreadable status ${JSON.stringify(line.slice(0, 80))}` }
}
