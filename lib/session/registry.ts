/**
 * Who holds what: one root-owned file a jail, under a tmpfs, so that a reboot clears it.
 * Invariant: an entry is written before the first effect it names, and removed after the last is undone.
 */
import { errorMessage, JailError } from '../errors.js'
import type { Isolation } from '../policy/types.js'
import type { ProcessIdentity } from '../system/process-identity.js'
import type { System } from '../system/types.js'

export const entryVersion = 1

export interface RegistryEntry {
  readonly v: typeof entryVersion
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly user: string
  readonly home: string
  readonly isolation: Isolation
  readonly policy: string
  /** As named on the command line: what a reload reads again. */
  readonly policies: readonly string[]
  readonly cwd: string
  readonly command: readonly string[]
  /** Milliseconds since the epoch. */
  readonly since: number
  readonly owner: ProcessIdentity
  readonly phase: 'starting' | 'running' | 'ending'
  readonly netns?: string
  readonly gatePid?: number
  readonly initPid?: number
}

export interface Registry {
  /** False when the name is held. */
  claim(entry: RegistryEntry): Promise<boolean>
  update(entry: RegistryEntry): Promise<void>
  read(name: string): Promise<RegistryEntry | undefined>
  /** Whether the name is still held by the same owner. */
  stillHas(entry: RegistryEntry): Promise<boolean>
  /** All of them, or at most so many, others each time. */
  list(most?: number): Promise<readonly RegistryEntry[]>
  /** Files that cannot be read as entries: names without `.json`. */
  broken(): Promise<readonly string[]>
  remove(name: string): Promise<void>
}

/** Over `<stateDir>/jails`. */
export function openRegistry(system: System, stateDir: string): Registry {
  const dir = `${stateDir}/jails`
  const path = (name: string): string => `${dir}/${name}.json`
  const names = async (): Promise<string[]> =>
    (await system.list(dir))
      .filter((file) => file.endsWith('.json'))
      .map((file) => file.slice(0, -'.json'.length))
  const read = async (name: string): Promise<RegistryEntry | undefined> => {
    const text = await system.readFile(path(name))
    return text === undefined ? undefined : parseEntry(text, path(name))
  }
  const readable = async (name: string): Promise<RegistryEntry | undefined> => {
    try {
      return await read(name)
    } catch {
      return undefined
    }
  }
  return {
    claim: (entry) => system.claimFile(path(entry.name), serialise(entry), 0o600),
    update: (entry) => system.writeFile(path(entry.name), serialise(entry), 0o600),
    read,
    stillHas: async ({ name, owner }) => {
      const now = (await readable(name))?.owner
      return now?.pid === owner.pid && now.start === owner.start && now.boot === owner.boot
    },
    list: async (most) => {
      const all = await names()
      const from = most === undefined || all.length <= most ? 0 : process.pid % all.length
      const some = [...all.slice(from), ...all.slice(0, from)].slice(0, most)
      return (await Promise.all(some.map(readable))).filter((entry) => entry !== undefined)
    },
    broken: async () => {
      const found: string[] = []
      for (const name of await names()) {
        // One that is gone meanwhile is no broken one: its name may be another jail's by now.
        await read(name).catch(() => found.push(name))
      }
      return found
    },
    remove: (name) => system.removeFile(path(name)),
  }
}

function serialise(entry: RegistryEntry): string {
  return `${JSON.stringify(entry)}\n`
}

function parseEntry(text: string, path: string): RegistryEntry {
  const bad = (why: string): JailError =>
    new JailError('STATE', `the state file ${path} cannot be used: ${why}`, {
      hint: 'the jail stays denied; clear it with: agentjail gc',
    })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw bad(errorMessage(error))
  }
  if (typeof value !== 'object' || value === null) throw bad('it is no object')
  const entry = value as Partial<Record<keyof RegistryEntry, unknown>>
  if (entry.v !== entryVersion) throw bad(`its version is ${String(entry.v)}, not ${entryVersion}`)
  const owner = entry.owner as Partial<ProcessIdentity> | undefined
  const whole =
    typeof entry.name === 'string' &&
    typeof entry.uid === 'number' &&
    typeof entry.user === 'string' &&
    typeof entry.isolation === 'string' &&
    typeof owner?.pid === 'number' &&
    typeof owner.start === 'number' &&
    typeof owner.boot === 'string'
  if (!whole) throw bad('members are missing')
  return value as RegistryEntry
}
