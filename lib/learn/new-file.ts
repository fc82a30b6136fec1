/**
 * The file that `learn` makes: its place is looked at before the run, and written after it.
 * Invariant: with the caller's rights, in the very directory that was there before the run. What the command, or the
 * caller, put in the directory's place meanwhile leads root nowhere.
 */
import {
  accessSync,
  closeSync,
  constants,
  fchmodSync,
  openSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { errnoCode, errorMessage, JailError } from '../errors.js'

export interface NewFile {
  /** Throws USAGE where a file came in between, STATE where it cannot be written or the directory is another. */
  write(text: string): void
}

/**
 * @param path absolute.
 * @param shown as the caller named it.
 * @throws JailError USAGE where there is a file already, no directory for it, or one closed to the caller.
 */
export function planNewFile(
  path: string,
  shown: string,
  caller: { readonly uid: number; readonly gid: number },
): NewFile {
  if (statSync(path, { throwIfNoEntry: false }) !== undefined) throw exists(shown)
  const directory = dirname(path)
  const before = directoryOf(path, shown)
  try {
    // Of the process's own user: who went through sudo meets the caller's rights when the file is written.
    accessSync(directory, constants.W_OK)
  } catch {
    throw new JailError('USAGE', `you may not write in ${dirname(shown)}`, { hint: otherFile })
  }
  return {
    write(text) {
      const { dev, ino } = directoryOf(path, shown)
      if (dev !== before.dev || ino !== before.ino) {
        throw new JailError('STATE', `${dirname(shown)} is another directory than before the run`, {
          hint: `${shown} is not written: learn again, into a directory that the command leaves alone`,
        })
      }
      const file = createAs(caller, path, shown)
      try {
        // Whatever the umask is: others may read a policy.
        fchmodSync(file, 0o644)
        writeFileSync(file, text)
      } catch (error) {
        throw cannotWrite(shown, error)
      } finally {
        closeSync(file)
      }
    },
  }
}

const otherFile = 'name another file: -o FILE'

function directoryOf(path: string, shown: string): { dev: number; ino: number } {
  const found = statSync(dirname(path), { throwIfNoEntry: false })
  if (found?.isDirectory() === true) return found
  throw new JailError('USAGE', `there is no directory ${dirname(shown)}`, {
    hint: `make it, or ${otherFile}`,
  })
}

/** `@types/node` leaves it out. */
const posix: NodeJS.Process & { initgroups?: (user: number, group: number) => void } = process

function createAs(
  { uid, gid }: { readonly uid: number; readonly gid: number },
  path: string,
  shown: string,
): number {
  const isOther = process.getuid?.() === 0 && uid !== 0
  const groups = process.getgroups?.() ?? []
  try {
    if (isOther) {
      posix.initgroups?.(uid, gid)
      process.setegid?.(gid)
      process.seteuid?.(uid)
    }
    return openSync(path, 'wx', 0o644)
  } catch (error) {
    if (errnoCode(error) === 'EEXIST') throw exists(shown)
    throw cannotWrite(shown, error)
  } finally {
    if (isOther) {
      process.seteuid?.(0)
      process.setegid?.(0)
      process.setgroups?.(groups)
    }
  }
}

function cannotWrite(file: string, cause: unknown): JailError {
  return new JailError('STATE', `${file} cannot be written: ${errorMessage(cause)}`, {
    hint: otherFile,
    cause,
  })
}

function exists(file: string): JailError {
  return new JailError('USAGE', `${file} exists already`, { hint: otherFile })
}
