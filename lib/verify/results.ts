/**
 * What the battery inside a jail wrote, and whether something of it lives on.
 * Invariant: a bounded amount is read, and only lines of the shape that is expected.
 */
import { closeSync, fstatSync, openSync, readSync, unlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { System } from '../system/types.js'
import type { InsideLine } from './types.js'

/** Bytes of results that are read: the battery needs a tenth of it. */
const maxResults = 256 * 1024
/** Milliseconds in which a process that was left would write several times. */
const settle = 200

/** Descriptors for a battery's standard input and output. Close them. */
export interface Results {
  readonly input: number
  readonly output: number
  close(): void
}

/** `program`: of the batteries that the build makes. `path`: of a file that has no name any more when this returns. */
export function openResults(
  program: 'verify-inside' | 'verify-inside-macos',
  path: string,
): Results {
  const output = openSync(path, 'ax+', 0o600)
  unlinkSync(path)
  const source = fileURLToPath(new URL(`../bundle/${program}.js`, import.meta.url))
  const input = openSync(source, 'r')
  return {
    input,
    output,
    close: () => {
      closeSync(input)
      closeSync(output)
    },
  }
}

/** Whether a process of the jail outlived it. */
export async function lives(system: System, uid: number, output: number): Promise<boolean> {
  const before = fstatSync(output).size
  await sleep(settle)
  return fstatSync(output).size > before || (await system.processesOf(uid)).length > 0
}

export function linesOf(fd: number): InsideLine[] {
  const buffer = Buffer.alloc(maxResults)
  const length = readSync(fd, buffer, 0, maxResults, 0)
  return buffer
    .toString('utf8', 0, length)
    .split('\n')
    .flatMap((line) => {
      try {
        const { id, open, why } = JSON.parse(line) as Record<string, unknown>
        const isLine = typeof id === 'string' && typeof why === 'string'
        return isLine ? [{ id, open: typeof open === 'boolean' ? open : null, why }] : []
      } catch {
        return []
      }
    })
}
