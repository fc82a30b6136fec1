/**
 * What agentjail has put into pf, written down before it is done: one root-owned file for all jails.
 * Invariant: the file names everything that may be in the anchor; of another boot it names nothing.
 */
import { errorMessage, JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import type { UidRange } from '../types.js'
import type { PfJail } from './jail.js'

const version = 1

export interface PfStore {
  readonly v: typeof version
  readonly boot: string
  /** Our reference on pf; absent: none held. */
  readonly token?: string
  /** Present where the static deny is installed. */
  readonly range?: UidRange
  readonly jails: readonly PfJail[]
  /** pflog0 was made by agentjail: it goes with the last jail. */
  readonly log?: true
}

export interface StoreFile {
  read(): Promise<PfStore>
  write(store: PfStore): Promise<void>
  remove(): Promise<void>
}

/** `<stateDir>/pf.json`. Change it only under the lock. */
export function storeFile(system: System, stateDir: string): StoreFile {
  const path = `${stateDir}/pf.json`
  return {
    read: async () => {
      const boot = await system.bootId()
      const text = await system.readFile(path)
      const store = text === undefined ? undefined : parseStore(text, path)
      // After a reboot pf is off, its rules and our reference are gone.
      return store?.boot === boot ? store : { v: version, boot, jails: [] }
    },
    write: (store) => system.writeFile(path, `${JSON.stringify(store)}\n`, 0o600),
    remove: () => system.removeFile(path),
  }
}

function parseStore(text: string, path: string): PfStore {
  const bad = (why: string): JailError =>
    new JailError('STATE', `the state file ${path} cannot be used: ${why}`, {
      hint: `rules that are loaded stay and deny; when no jail runs, remove the file and run: agentjail gc`,
    })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw bad(errorMessage(error))
  }
  if (typeof value !== 'object' || value === null) throw bad('it is no object')
  const store = value as Partial<Record<keyof PfStore, unknown>>
  if (store.v !== version)
    throw bad(`its version is ${'v' in store ? JSON.stringify(store.v) : 'missing'}`)
  const whole =
    typeof store.boot === 'string' &&
    Array.isArray(store.jails) &&
    store.jails.every(isJail) &&
    (store.token === undefined ||
      (typeof store.token === 'string' && /^\d{1,20}$/.test(store.token))) &&
    (store.log === undefined || store.log === true)
  if (!whole) throw bad('members are missing')
  return value as PfStore
}

function isJail(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const jail = value as Partial<Record<keyof PfJail, unknown>>
  return (
    typeof jail.name === 'string' &&
    typeof jail.uid === 'number' &&
    [jail.takeovers, jail.pinned, jail.kernel, jail.denied].every(Array.isArray) &&
    typeof jail.loopback === 'object'
  )
}
