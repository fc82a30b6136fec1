/** Files of root's: made whole, claimed by name, looked at without following links. */
import {
  closeSync,
  constants,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { errnoCode, errorMessage, JailError } from '../errors.js'
import type { FileStat } from './types.js'

/** Whole or not at all, also where power fails. Throws STATE. */
export function writeAtomically(path: string, data: string, mode: number): void {
  throughTemporary(path, data, mode, (temporary) => {
    renameSync(temporary, path)
  })
}

/** False: somebody has the name already. Throws STATE. */
export function claimAtomically(path: string, data: string, mode: number): boolean {
  let claimed = true
  throughTemporary(path, data, mode, (temporary) => {
    try {
      // link(2) fails where the name exists: the content is whole from the first instant.
      linkSync(temporary, path)
    } catch (error) {
      if (errnoCode(error) !== 'EEXIST') throw error
      claimed = false
    }
    unlinkSync(temporary)
  })
  return claimed
}

function throughTemporary(
  path: string,
  data: string,
  mode: number,
  place: (temporary: string) => void,
): void {
  // The directory is root's alone: the name need be unique, not secret.
  const temporary = `${path}.${process.pid}-${process.hrtime.bigint().toString(36)}.tmp`
  try {
    const file = openSync(
      temporary,
      constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW,
      mode,
    )
    try {
      writeFileSync(file, data)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    place(temporary)
  } catch (error) {
    removeFile(temporary)
    throw unwritable('write', path, error)
  }
}

/** Absent is as well. */
export function removeFile(path: string): void {
  absentAsUndefined(() => {
    unlinkSync(path)
  })
}

/** Throws STATE. */
export function makeDir(path: string, mode: number): void {
  try {
    mkdirSync(path, { recursive: true, mode })
  } catch (error) {
    throw unwritable('make', path, error)
  }
}

/** Of the link itself. */
export function statLink(path: string): FileStat | undefined {
  const stat = absentAsUndefined(() => lstatSync(path))
  if (stat === undefined) return undefined
  const kind = stat.isFile()
    ? 'file'
    : stat.isDirectory()
      ? 'directory'
      : stat.isSymbolicLink()
        ? 'symlink'
        : stat.isSocket()
          ? 'socket'
          : 'other'
  return {
    uid: stat.uid,
    gid: stat.gid,
    mode: stat.mode & 0o7777,
    kind,
    mtimeMs: stat.mtimeMs,
    inode: stat.ino,
  }
}

export function absentAsUndefined<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined
    throw error
  }
}

function unwritable(verb: 'make' | 'write', path: string, error: unknown): JailError {
  return new JailError('STATE', `cannot ${verb} ${path}: ${errorMessage(error)}`, {
    hint: `check that ${dirname(path)} is writable and has space`,
    cause: error,
  })
}
