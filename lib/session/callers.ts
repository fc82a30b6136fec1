/**
 * Whose socket it was that was denied: from the port of the client to the process that holds it.
 * The gate tells the port the moment it denies; the kernel forgets it when the process closes the socket.
 * Invariant: best effort and bounded. A denial waits for it a moment at most, no verdict depends on it, and what a jail does
 * costs the warden at most `lookupsPerSecond` looks at `maxLinks` descriptors.
 */
// `promises` is a large part of Node, which it loads when first asked for it.
import { promises, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { TokenBucket } from '../gate/rate.js'

/** As the gate tells them; its own count is not believed. */
const lookupsPerSecond = 10
const lookupsAtOnce = 20
/** Processes and descriptors looked at for one client. */
const maxProcesses = 256
const maxLinks = 2_048
/** Clients remembered until their decision arrives, some 40 ms later. */
const maxRemembered = 64
/** Characters of a command line. */
const maxCommand = 160

/** A process, as the host numbers it. */
export interface Caller {
  readonly pid: number
  /** Its words, a space between; not yet fit for a terminal. */
  readonly command: string
}

export interface CallersOptions {
  /** Only sockets of this uid are looked for. */
  readonly uid: number
  /** The host's pid of the jail's PID 1: its network is the jail's, its descendants are the jail. */
  readonly initPid: () => number | undefined
  /** Takes known secrets out of a command line. */
  readonly scrub: (text: string) => string
  /** Milliseconds, monotonic. */
  readonly monotonic: () => number
}

export class Callers {
  readonly #options: CallersOptions
  readonly #lookups: TokenBucket
  readonly #found = new Map<string, Caller>()

  constructor(options: CallersOptions) {
    this.#options = options
    this.#lookups = new TokenBucket(lookupsPerSecond, lookupsAtOnce, options.monotonic)
  }

  /** A client is being denied: looks while its socket is still there. True: found. Never rejects. */
  async seek(proto: unknown, port: unknown): Promise<boolean> {
    const caller = await this.find(proto, port)
    if (caller === undefined) return false
    const [oldest] = this.#found.keys()
    if (this.#found.size >= maxRemembered && oldest !== undefined) this.#found.delete(oldest)
    this.#found.set(`${String(proto)} ${String(port)}`, caller)
    return true
  }

  /** Whose socket that is, while it is there. Never rejects. */
  async find(proto: unknown, port: unknown): Promise<Caller | undefined> {
    if ((proto !== 'tcp' && proto !== 'udp') || !isPort(port) || !this.#lookups.take())
      return undefined
    return await this.#look(proto, port)
  }

  /** Decisions as the gate sent them, each with the process behind it where that is known. */
  attribute(values: unknown): unknown {
    if (!Array.isArray(values)) return values
    return values.map((value: unknown) => {
      if (typeof value !== 'object' || value === null) return value
      const { client, proto } = value as { readonly client?: unknown; readonly proto?: unknown }
      const key = `${String(proto)} ${String(client)}`
      const caller = client === undefined ? undefined : this.#found.get(key)
      this.#found.delete(key)
      // The gate knows no process: what it says of one is not taken.
      return { ...value, pid: caller?.pid, command: caller?.command }
    })
  }

  async #look(proto: 'tcp' | 'udp', port: number): Promise<Caller | undefined> {
    const init = this.#options.initPid()
    if (init === undefined) return undefined
    const uid = this.#options.uid
    // A socket of both families is in the second.
    for (const table of [proto, `${proto}6`]) {
      const inodes = socketInodes(await readTable(`/proc/${String(init)}/net/${table}`), port, uid)
      if (inodes.length > 0) return this.#describe(holderOf(new Set(inodes), init, uid))
    }
    return undefined
  }

  #describe(pid: number | undefined): Caller | undefined {
    const words = pid === undefined ? '' : readText(`/proc/${String(pid)}/cmdline`)
    if (pid === undefined || words === '') return undefined
    return { pid, command: this.#options.scrub(commandText(words)).slice(0, maxCommand) }
  }
}

/**
 * UDP's is read at once: its client waits half a millisecond at most. For TCP's the kernel walks all buckets of
 * its table, some 10 ms, which the warden must not stand still for.
 */
async function readTable(path: string): Promise<string> {
  return path.includes('/udp')
    ? readText(path)
    : await promises.readFile(path, 'utf8').catch(() => '')
}

function isPort(port: unknown): port is number {
  return typeof port === 'number' && Number.isInteger(port) && port > 0 && port < 65_536
}

/**
 * Inodes of the sockets of `uid` with that local port, of a table as /proc/net/tcp and /proc/net/udp have it
 * (proc_net_tcp.rst of the kernel: local address in field 2, uid in 8, inode in 10; inode 0: no process holds it).
 */
export function socketInodes(table: string, port: number, uid: number): string[] {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  return table.split('\n').flatMap((line) => {
    // Most lines are not it, and no line is split for nothing.
    if (!line.includes(wanted)) return []
    const [, local, , , , , , owner, , inode] = line.trim().split(/\s+/)
    const isIt = local?.endsWith(wanted) === true && owner === String(uid)
    return isIt && inode !== undefined && inode !== '0' ? [inode] : []
  })
}

/** The process of the jail with a descriptor of one of these sockets. */
function holderOf(inodes: ReadonlySet<string>, init: number, uid: number): number | undefined {
  const links = new Set([...inodes].map((inode) => `socket:[${inode}]`))
  let left = maxLinks
  const holds = (pid: number): boolean =>
    listDir(`/proc/${String(pid)}/fd`).some(
      (fd) => left-- > 0 && links.has(readLink(`/proc/${String(pid)}/fd/${fd}`)),
    )
  // The youngest first: it is quickly gone.
  const family = descendants(init).reverse()
  return (
    family.find(holds) ??
    // What `--join` started is no descendant, and takes longer to find.
    processesOwnedBy(uid).find((pid) => !family.includes(pid) && holds(pid))
  )
}

/** Breadth first, so that parents come before their children. */
function descendants(init: number): number[] {
  const found = [init]
  for (let at = 0; at < found.length && found.length < maxProcesses; at++) {
    found.push(...childrenOf(found[at] ?? init))
  }
  return found.slice(1)
}

/** Children of every thread (proc(5), /proc/PID/task/TID/children); none on a kernel that does not tell. */
function childrenOf(pid: number): number[] {
  const tasks = `/proc/${String(pid)}/task`
  return listDir(tasks).flatMap((tid) =>
    readText(`${tasks}/${tid}/children`)
      .split(' ')
      .flatMap((word) => (word === '' ? [] : [Number(word)])),
  )
}

function processesOwnedBy(uid: number): number[] {
  return listDir('/proc').flatMap((name) =>
    /^\d+$/.test(name) && ownerOf(`/proc/${name}`) === uid ? [Number(name)] : [],
  )
}

/** The words of /proc/PID/cmdline: ends of words are NUL. */
export function commandText(cmdline: string): string {
  return cmdline.replace(/\0+$/, '').replaceAll('\0', ' ')
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function listDir(path: string): readonly string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}

function readLink(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

function ownerOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.uid
}
