/**
 * Reads the audit log back: rotated files in order, several jails merged by time, new lines as they come.
 * Invariant: a line that is no record (torn by a full disk, or planted) is passed over, never believed.
 */
import { type FileHandle, open, readdir } from 'node:fs/promises'
import { StringDecoder } from 'node:string_decoder'
import { setTimeout as delay } from 'node:timers/promises'
import { logPath, parseLogName } from '../audit/files.js'
import type { DroppedRecord } from '../audit/log.js'
import type { AuditRecord } from '../audit/record.js'
import { sanitiseDecision } from '../audit/sanitise.js'
import { JailError, errnoCode } from '../errors.js'

export type LogRecord = AuditRecord | DroppedRecord

export interface LogQuery {
  readonly dir: string
  /** Absent: all jails. */
  readonly jail?: string
  /** Denials, and counts of what is missing. */
  readonly deniedOnly: boolean
  /** Milliseconds since the epoch. */
  readonly since?: number
}

export interface FollowOptions {
  readonly signal?: AbortSignal
  /** Milliseconds between looks; default 250. */
  readonly interval?: number
}

/** Generations by jail, oldest first. Throws NAME_UNKNOWN, NOT_ROOT. */
async function filesOf({ dir, jail }: LogQuery): Promise<ReadonlyMap<string, readonly string[]>> {
  const found = new Map<string, number[]>()
  for (const file of await listDir(dir)) {
    const name = parseLogName(file)
    if (!name || (jail !== undefined && name.jail !== jail)) continue
    found.set(name.jail, [...(found.get(name.jail) ?? []), name.generation])
  }
  return new Map(
    [...found].map(([name, generations]) => [
      name,
      generations.sort((a, b) => b - a).map((generation) => logPath(dir, name, generation)),
    ]),
  )
}

async function listDir(dir: string): Promise<readonly string[]> {
  try {
    return await readdir(dir)
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return []
    if (errnoCode(error) === 'EACCES') {
      throw new JailError('NOT_ROOT', 'the audit log is for root alone', { hint: 'use sudo' })
    }
    throw error
  }
}

/** What is there now, then (with `follow`) what comes until its signal. */
export async function* readLog(
  query: LogQuery,
  follow?: FollowOptions,
): AsyncGenerator<LogRecord, void> {
  const files = await filesOf(query)
  if (query.jail !== undefined && files.size === 0 && !follow) {
    throw new JailError('NAME_UNKNOWN', `there is no log of a jail named ${query.jail}`, {
      hint: 'see: agentjail logs',
    })
  }
  const tails = new Map<string, Tail>()
  const readers = [...files].map(([jail, paths]) => {
    const tail = new Tail()
    tails.set(jail, tail)
    return readAll(paths, tail)
  })
  try {
    for await (const record of mergeByTime(readers)) if (isWanted(record, query)) yield record
    if (follow) yield* followAll(query, tails, follow)
  } finally {
    for (const tail of tails.values()) await tail.close()
  }
}

async function* readAll(paths: readonly string[], tail: Tail): AsyncGenerator<LogRecord, void> {
  for (const path of paths) {
    await tail.open(path)
    yield* tail.read()
  }
}

/** Each reader is in order already; the oldest head goes first. */
async function* mergeByTime(
  readers: readonly AsyncGenerator<LogRecord, void>[],
): AsyncGenerator<LogRecord, void> {
  const heads: { record: LogRecord; reader: AsyncGenerator<LogRecord, void> }[] = []
  for (const reader of readers) {
    const { value, done } = await reader.next()
    if (done !== true) heads.push({ record: value, reader })
  }
  while (heads.length > 0) {
    let first = 0
    for (const [i, head] of heads.entries()) {
      if (head.record.time < (heads[first]?.record.time ?? '')) first = i
    }
    const head = heads[first]
    if (!head) return
    yield head.record
    const next = await head.reader.next()
    if (next.done === true) heads.splice(first, 1)
    else head.record = next.value
  }
}

async function* followAll(
  query: LogQuery,
  tails: Map<string, Tail>,
  { signal, interval = 250 }: FollowOptions,
): AsyncGenerator<LogRecord, void> {
  while (signal?.aborted !== true) {
    for (const jail of (await filesOf(query)).keys()) {
      const tail = tails.get(jail) ?? new Tail()
      tails.set(jail, tail)
      const path = logPath(query.dir, jail)
      // First what the old file still got, then the one that took its place.
      for await (const record of tail.read()) if (isWanted(record, query)) yield record
      if (await tail.hasMoved(path)) {
        for await (const record of tail.read()) if (isWanted(record, query)) yield record
        await tail.open(path)
        for await (const record of tail.read()) if (isWanted(record, query)) yield record
      }
    }
    await delay(interval, undefined, signal ? { signal } : {}).catch(() => undefined)
  }
}

/** One file, read on from where it was left. */
class Tail {
  #handle: FileHandle | undefined
  #offset = 0
  #rest = ''
  #decoder = new StringDecoder('utf8')

  async open(path: string): Promise<void> {
    await this.close()
    try {
      this.#handle = await open(path, 'r')
    } catch (error) {
      // Rotated away between listing and opening.
      if (errnoCode(error) !== 'ENOENT') throw error
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close()
    this.#handle = undefined
    this.#offset = 0
    this.#rest = ''
    this.#decoder = new StringDecoder('utf8')
  }

  async hasMoved(path: string): Promise<boolean> {
    const mine = await this.#handle?.stat()
    try {
      const other = await open(path, 'r')
      const { ino } = await other.stat().finally(() => other.close())
      return ino !== mine?.ino
    } catch (error) {
      if (errnoCode(error) === 'ENOENT') return false
      throw error
    }
  }

  async *read(): AsyncGenerator<LogRecord, void> {
    const handle = this.#handle
    if (!handle) return
    const buffer = Buffer.alloc(256 * 1024)
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, this.#offset)
      if (bytesRead === 0) return
      this.#offset += bytesRead
      const lines = (this.#rest + this.#decoder.write(buffer.subarray(0, bytesRead))).split('\n')
      this.#rest = (lines.pop() ?? '').slice(0, 65_536)
      for (const line of lines) {
        const record = parseRecord(line)
        if (record) yield record
      }
    }
  }
}

/** One line of the log; `undefined` for what is none. */
export function parseRecord(line: string): LogRecord | undefined {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null) return undefined
  const { v, time, jail, uid, dropped } = value as Readonly<Record<string, unknown>>
  if (v !== 1 || typeof time !== 'string' || typeof jail !== 'string') return undefined
  if (typeof uid !== 'number') return undefined
  const head = { v, time, jail, uid } as const
  if (typeof dropped === 'number') return { ...head, dropped }
  const decision = sanitiseDecision(value)
  return decision && { ...head, ...decision }
}

function isWanted(record: LogRecord, { deniedOnly, since }: LogQuery): boolean {
  if (since !== undefined && Date.parse(record.time) < since) return false
  return !deniedOnly || 'dropped' in record || record.verdict === 'deny'
}
