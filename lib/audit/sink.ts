/**
 * One append-only file that rotates by size.
 * Invariant: only a regular file of our own, unreadable by others and without a second name, is
 * written, in a directory of the same kind; a link planted there is never followed.
 */
import { type FileHandle, constants, open, lstat, mkdir, rename } from 'node:fs/promises'
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
  #handle: FileHandle
  #size: number
  /** The last write ended within a line: the next starts with a line end. */
  #isTorn: boolean

  private constructor(
    options: SinkOptions,
    opened: { readonly handle: FileHandle; readonly size: number; readonly isTorn: boolean },
  ) {
    this.#options = options
    this.#handle = opened.handle
    this.#size = opened.size
    this.#isTorn = opened.isTorn
  }

  /** Makes the directory where it is missing. Throws `JailError` STATE where either is not safe. */
  static async open(options: SinkOptions): Promise<Sink> {
    await ensureDir(options.dir)
    return new Sink(options, await openFile(logPath(options.dir, options.jail)))
  }

  /** Appends whole lines; rotates first where they would not fit. Rejects with the errno of the write. */
  async append(lines: Buffer): Promise<void> {
    if (this.#size > 0 && this.#size + lines.length > this.#options.maxBytes) await this.#rotate()
    const data = this.#isTorn ? Buffer.concat([Buffer.from('\n'), lines]) : lines
    let done = 0
    try {
      while (done < data.length) {
        const { bytesWritten } = await this.#handle.write(data, done)
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

  async close(): Promise<void> {
    await this.#handle.close()
  }

  async #rotate(): Promise<void> {
    const { dir, jail, files } = this.#options
    for (let generation = files - 1; generation >= 1; generation--) {
      await renameIfThere(logPath(dir, jail, generation - 1), logPath(dir, jail, generation))
    }
    const opened = await openFile(logPath(dir, jail))
    const old = this.#handle
    this.#handle = opened.handle
    this.#size = opened.size
    this.#isTorn = opened.isTorn
    await old.close()
  }
}

async function renameIfThere(from: string, to: string): Promise<void> {
  try {
    await rename(from, to)
  } catch (error) {
    if (errnoCode(error) !== 'ENOENT') throw error
  }
}

async function ensureDir(dir: string): Promise<void> {
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new JailError('STATE', `cannot make ${dir}: ${errorMessage(error)}`, { cause: error })
  }
  const stat = await lstat(dir)
  const isOurs = stat.isDirectory() && stat.uid === process.geteuid?.() && (stat.mode & 0o077) === 0
  if (!isOurs) {
    throw new JailError('STATE', `${dir} is not a directory that only its owner can enter`, {
      hint: `check who made it; then: chown root:root ${dir} && chmod 0700 ${dir}`,
    })
  }
}

async function openFile(
  path: string,
): Promise<{ readonly handle: FileHandle; readonly size: number; readonly isTorn: boolean }> {
  const { O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants
  let handle: FileHandle
  try {
    // Non-blocking: a FIFO planted here must not hold us up before it is seen for what it is.
    handle = await open(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600)
  } catch (error) {
    throw new JailError('STATE', `cannot open the audit log ${path}: ${errorMessage(error)}`, {
      cause: error,
      hint: 'it must be a plain file of root; remove what is there',
    })
  }
  try {
    const stat = await handle.stat()
    if (!stat.isFile() || stat.uid !== process.geteuid?.() || stat.nlink !== 1) {
      throw new JailError('STATE', `the audit log ${path} is not a plain file of root's own`, {
        hint: 'remove it; it is made anew',
      })
    }
    if ((stat.mode & 0o777) !== 0o600) await handle.chmod(0o600)
    const last = Buffer.alloc(1)
    if (stat.size > 0) await handle.read(last, 0, 1, stat.size - 1)
    return { handle, size: stat.size, isTorn: stat.size > 0 && last[0] !== 0x0a }
  } catch (error) {
    await handle.close()
    throw error
  }
}
