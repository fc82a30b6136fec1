/** Reads files that a hostile command may have made, and may change this very moment. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'

/** At most so many bytes of a regular file; undefined: it is none, is a link, or cannot be read. Never waits. */
export function readSmall(path: string, most: number): string | undefined {
  let file
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW)
    if (!fstatSync(file).isFile()) return undefined
    const bytes = Buffer.alloc(most)
    return bytes.toString('utf8', 0, readSync(file, bytes, 0, most, 0))
  } catch {
    return undefined
  } finally {
    if (file !== undefined) closeSync(file)
  }
}
