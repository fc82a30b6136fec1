/**
 * The processes of a user, read from /proc.
 * Invariant: one that has the uid as any of its four is found, whatever else it is; one that has ended is none.
 */
import { closeSync, openSync, readdirSync, readSync } from 'node:fs'
import { errnoCode } from '../errors.js'

/** Bytes: name, state and uids of proc_pid_status(5) lie in the first 300; so do the threads of one that has no memory any more. */
const head = Buffer.alloc(1024)
const [zero, nine] = [0x30, 0x39]

/**
 * With a thousand jails there are ten thousand processes, and each start reads all: one buffer, and no expression is
 * matched, which takes half the time.
 */
export function findProcesses(uid: number): number[] {
  const wanted = String(uid)
  return readdirSync('/proc').flatMap((name) => {
    const first = name.charCodeAt(0)
    if (first < zero || first > nine) return []
    const length = readHead(`/proc/${name}/status`)
    if (length === undefined) return []
    if (!field('\nUid:\t', length).includes(wanted)) return []
    const state = field('\nState:\t', length)[0]?.[0]
    // The state is its first thread's, which may end before the others.
    const isThere = (state !== 'Z' && state !== 'X') || Number(field('\nThreads:\t', length)[0]) > 1
    return isThere ? [Number(name)] : []
  })
}

/** Words of one line of what was read. */
function field(name: string, length: number): string[] {
  const found = head.indexOf(name)
  if (found < 0 || found >= length) return []
  const from = found + name.length
  return head.toString('latin1', from, head.indexOf(0x0a, from)).split('\t')
}

/** Bytes read; a process may end while it is: ESRCH is absence too. */
function readHead(path: string): number | undefined {
  try {
    const file = openSync(path, 'r')
    try {
      return readSync(file, head, 0, head.length, 0)
    } finally {
      closeSync(file)
    }
  } catch (error) {
    const code = errnoCode(error)
    if (code === 'ENOENT' || code === 'ESRCH') return undefined
    throw error
  }
}
