/**
 * What each jail has in the table that they share, written down before it goes in: so whoever first finds the table
 * damaged puts back all of it, in one transaction, and not one jail after the other.
 * Invariant: written and read under the lock; the rules are made anew from the plan, and each jail's own watch reads them
 * back. Of a process that is gone nothing is put back.
 */
import { isAlive, ownIdentity } from '../../system/process-identity.js'
import type { ProcessIdentity } from '../../system/process-identity.js'
import type { System } from '../../system/types.js'
import type { GatePort, NetworkPlan } from '../types.js'
import type { Table } from './ast.js'
import { uidJail } from './uid-jail.js'

interface WrittenPart {
  readonly owner: ProcessIdentity
  readonly plan: NetworkPlan
  readonly gate: readonly GatePort[]
}

/** The last time that the whole table was put back. */
interface Restored {
  /** Monotonic milliseconds. */
  readonly at: number
  /** Jails whose part read back as written. */
  readonly jails: readonly string[]
}

const prefix = 'rules-'
export interface OtherPart {
  readonly jail: string
  readonly part: Table
}

const pathOf = (dir: string, jail: string): string => `${dir}/${prefix}${jail}.json`

export class WrittenParts {
  readonly #system: System
  readonly #dir: string

  /** @param dir root-owned, e.g. /run/agentjail. */
  constructor(system: System, dir: string) {
    this.#system = system
    this.#dir = dir
  }

  /** This process's own. */
  async write(plan: NetworkPlan, gate: readonly GatePort[]): Promise<void> {
    const part: WrittenPart = { owner: await ownIdentity(this.#system), plan, gate }
    await this.#system.writeFile(pathOf(this.#dir, plan.jail), JSON.stringify(part), 0o600)
  }

  /** Idempotent. */
  async remove(jail: string): Promise<void> {
    await this.#system.removeFile(pathOf(this.#dir, jail))
  }

  /** The whole table is back: with the parts of these jails, as written, at that time (monotonic milliseconds). */
  async vouch(at: number, jails: readonly string[]): Promise<void> {
    const restored: Restored = { at, jails }
    await this.#system.writeFile(this.#restored, JSON.stringify(restored), 0o600)
  }

  /** Whether somebody has done that for a jail since then (monotonic milliseconds). */
  async isVouched(jail: string, since: number): Promise<boolean> {
    try {
      const text = await this.#system.readFile(this.#restored)
      const { at, jails } = JSON.parse(text ?? '') as Restored
      return at > since && jails.includes(jail)
    } catch {
      return false
    }
  }

  /** No jail is left. */
  async forget(): Promise<void> {
    await this.#system.removeFile(this.#restored)
  }

  get #restored(): string {
    return `${this.#dir}/rules.restored`
  }

  /** Those of other jails whose warden lives, with the same shared part. What cannot be read is its own warden's to mend. */
  async others({ jail, range, groups }: NetworkPlan): Promise<OtherPart[]> {
    const names = (await this.#system.list(this.#dir)).filter((name) => name.startsWith(prefix))
    const parts = await Promise.all(
      names.map(async (name): Promise<OtherPart[]> => {
        try {
          const text = await this.#system.readFile(`${this.#dir}/${name}`)
          const { owner, plan, gate } = JSON.parse(text ?? '') as WrittenPart
          const isSame =
            plan.groups === groups &&
            plan.range.first === range.first &&
            plan.range.last === range.last
          return plan.jail !== jail && isSame && (await isAlive(this.#system, owner))
            ? [{ jail: plan.jail, part: uidJail(plan, gate) }]
            : []
        } catch {
          return []
        }
      }),
    )
    return parts.flat()
  }
}
