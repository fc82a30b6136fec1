/**
 * Closes what the caller left open above standard error, before anything is started.
 * Node starts children with a gap here: descriptors without close-on-exec that were inherited pass through.
 */
import { closeSync, readdirSync, readFileSync } from 'node:fs'

/** O_CLOEXEC as fdinfo shows it (octal, proc(5)): Node's own descriptors have it, inherited ones do not. */
const closeOnExec = 0o2000000

export function closeInherited(): void {
  if (process.platform !== 'linux') return
  for (const name of readdirSync('/proc/self/fd')) {
    const fd = Number(name)
    if (fd <= 2) continue
    try {
      const flags = /^flags:\s+([0-7]+)$/m.exec(
        readFileSync(`/proc/self/fdinfo/${name}`, 'utf8'),
      )?.[1]
      if (flags !== undefined && (Number.parseInt(flags, 8) & closeOnExec) === 0) closeSync(fd)
    } catch {
      // It was the descriptor that listed the directory.
    }
  }
}
