/**
 * A directory that one holder at a time has, by a file of its own in it.
 * rename(2) puts a directory in the place of another only where that one is absent or empty, atomically; and a file is
 * taken away by its name. So two never hold it, and what takes a dead holder's file away takes no other's.
 */
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmdirSync,
  unlinkSync,
} from 'node:fs'
import { errnoCode, errorMessage, JailError } from '../errors.js'

/** False: somebody else has it. Throws STATE where it cannot be written. */
export function holdDir(path: string, holder: string): boolean {
  if (holdersOf(path).length > 0) return false
  const own = `${path}.${holder}`
  try {
    mkdirSync(own, { mode: 0o700 })
    closeSync(openSync(`${own}/${holder}`, 'wx', 0o600))
    renameSync(own, path)
    return true
  } catch (error) {
    ignoring(['ENOENT'], () => {
      unlinkSync(`${own}/${holder}`)
    })
    ignoring(['ENOENT'], () => {
      rmdirSync(own)
    })
    // rename(2): which of the two is the file system's choice.
    if (['ENOTEMPTY', 'EEXIST'].includes(errnoCode(error) ?? '')) return false
    throw new JailError('STATE', `cannot write ${path}: ${errorMessage(error)}`, { cause: error })
  }
}

/** Takes that holder's file out, and an empty directory away. False: it was not there. */
export function leaveDir(path: string, holder: string): boolean {
  const wasHeld = ignoring(['ENOENT'], () => {
    unlinkSync(`${path}/${holder}`)
  })
  ignoring(['ENOENT', 'ENOTEMPTY', 'EEXIST'], () => {
    rmdirSync(path)
  })
  return wasHeld
}

/** One name, or none. */
function holdersOf(path: string): readonly string[] {
  let names: readonly string[] = []
  ignoring(['ENOENT'], () => {
    names = readdirSync(path)
  })
  return names
}

function ignoring(codes: readonly string[], work: () => void): boolean {
  try {
    work()
    return true
  } catch (error) {
    if (codes.includes(errnoCode(error) ?? '')) return false
    throw error
  }
}
