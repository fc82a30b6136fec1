/**
 * One append-only file that rotates by size.
 * Invariant: only a regular file of our own, unreadable by others and without a second name, is
 * written, in a directory of the same kind; a link planted there is never followed.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  write,
} from 'node:fs'
import { promisify } from 'node:util'
import { JailError, errnoCode, errorMessage } from '../errors.js'
import { logPath } from './files.js'

export interface SinkOptions {
  readonly dir: string
  readonly jail: string
  /** Bytes after which the file is rotated. */
  readonly maxBytes: number
  /** Files kept, the written one included. */
  readonly files: number
}

export class Sink {
  readonly #options: SinkOptions
  #file: number
  #size: number
  /** The last write ended within a line: the next starts with a line end. */
  #isTorn: boolean

  private constructor(
    options: SinkOptions,
    opened: { readonly file: number; readonly size: number; readonly isTorn: boolean },
  ) {
    this.#options = options
    this.#file = opened.file
    this.#size = opened.size
    this.#isTorn = opened.isTorn
  }

  /** Makes the directory where it is missing. Throws `JailError` STATE where either is not safe. */
  static open(options: SinkOptions): Sink {
    ensureDir(options.dir)
    return new Sink(options, openFile(logPath(options.dir, options.jail)))
  }

  /** Appends whole lines; rotates first where they would not fit. Rejects with the errno of the write. */
  async append(lines: Buffer): Promise<void> {
    if (this.#size > 0 && this.#size + lines.length > this.#options.maxBytes) this.#rotate()
    const data = this.#isTorn ? Buffer.concat([Buffer.from('\n'), lines]) : lines
    let done = 0
    try {
      while (done < data.length) {
        const { bytesWritten } = await promisify(write)(this.#file, data, done)
        done += bytesWritten
        this.#size += bytesWritten
      }
      this.#isTorn = false
    } catch (error) {
      // A full disk may take the first half of a line.
      if (done > 0) this.#isTorn = data[done - 1] !== 0x0a
      throw error
    }
  }

  /** At once: a thread of the pool for it is one that the process waits for as it ends. */
  close(): void {
    closeSync(this.#file)
  }

  #rotate(): void {
    const { dir, jail, files } = this.#options
    for (let generation = files - 1; generation >= 1; generation--) {
      renameIfThere(logPath(dir, jail, generation - 1), logPath(dir, jail, generation))
    }
    const opened = openFile(logPath(dir, jail))
    const old = this.#file
    this.#file = opened.file
    this.#size = opened.size
    this.#isTorn = opened.isTorn
    closeSync(old)
  }
}

function renameIfThere(from: string, to: string): void {
  try {
    renameSync(from, to)
  } catch (error) {
    if (errnoCode(error) !== 'ENOENT') throw error
  }
}

function ensureDir(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new JailError('STATE', `cannot make ${dir}: ${errorMessage(error)}`, { cause: error })
  }
  const stat = lstatSync(dir)
  const isOurs = stat.isDirectory() && stat.uid === process.geteuid?.() && (stat.mode & 0o077) === 0
  if (!isOurs) {
    throw new JailError('STATE', `${dir} is not a directory that only its owner can enter`, {
      hint: `check who made it; then: chown root:root ${dir} && chmod 0700 ${dir}`,
    })
  }
}

function openFile(path: string): {
  readonly file: number
  readonly size: number
  readonly isTorn: boolean
} {
  const { O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants
  let file: number
  try {
    // Non-blocking: a FIFO planted here must not hold us up before it is seen for what it is.
    file = openSync(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600)
  } catch (error) {
    throw new JailError('STATE', `cannot open the audit log ${path}: ${errorMessage(error)}`, {
      cause: error,
      hint: 'it must be a plain file of root; remove what is there',
    })
  }
  try {
    const stat = fstatSync(file)
    if (!stat.isFile() || stat.uid !== process.geteuid?.() || stat.nlink !== 1) {
      throw new JailError('STATE', `the audit log ${path} is not a plain file of root's own`, {
        hint: 'remove it; it is made anew',
      })
    }
    if ((stat.mode & 0o777) !== 0o600) fchmodSync(file, 0o600)
    const last = Buffer.alloc(1)
    if (stat.size > 0) readSync(file, last, 0, 1, stat.size - 1)
    return { file, size: stat.size, isTorn: stat.size > 0 && last[0] !== 0x0a }
  } catch (error) {
    closeSync(file)
    throw error
  }
}
