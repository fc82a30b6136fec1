/** Processes by their parent, read from /proc. */
import { readdirSync, readFileSync } from 'node:fs'

/** Direct children of a process, oldest first; none where it has ended. */
export function childrenOf(pid: number): readonly number[] {
  try {
    const text = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'utf8')
    return text.split(' ').flatMap((word) => (/^\d+$/.test(word) ? [Number(word)] : []))
  } catch {
    return scan(pid)
  }
}

/** For kernels without CONFIG_PROC_CHILDREN. */
function scan(pid: number): readonly number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && field(name, 'PPid') === String(pid))
    .map(Number)
    .sort((a, b) => a - b)
}

/** The pid that a process has in its innermost PID namespace. */
export function innerPidOf(pid: number): number {
  return Number(field(String(pid), 'NSpid')?.split(/\s+/).at(-1))
}

/** Running or about to end; a zombie is not: PID 1 becomes one only after all of its namespace. */
export function isAlive(pid: number): boolean {
  const state = field(String(pid), 'State')?.[0]
  return state !== undefined && state !== 'Z' && state !== 'X'
}

function field(pid: string, name: string): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/status`, 'utf8')
    return new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(text)?.[1]
  } catch {
    return undefined
  }
}
