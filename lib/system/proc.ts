/** What /proc says of processes and of the boot. */
import { readFileSync } from 'node:fs'
import { errnoCode } from '../errors.js'

/** In clock ticks since the boot; undefined: there is no such process, or it is dead. */
export function readProcessStart(pid: number): number | undefined {
  const text = readProc(`/proc/${pid}/stat`)
  if (text === undefined) return undefined
  // proc(5): the command in parentheses may hold anything; field 3 is the state, field 22 the start time.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : Number(fields[19])
}

export function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

/** A process may end while it is read: ESRCH is absence too. */
function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1')
  } catch (error) {
    const code = errnoCode(error)
    if (code === 'ENOENT' || code === 'ESRCH') return undefined
    throw error
  }
}
