/**
 * The static deny as it was when nft's listing of it was found right: the kernel's own bytes. While they are the same,
 * it is right; nothing of them is understood here.
 * Invariant: bytes are remembered only where they were the same before and after that listing; handles are among them,
 * so that a table which was taken away and made again is another.
 */
import type { System } from '../../system/types.js'
import type { UidRange } from '../types.js'
import { tableName } from './tables.js'

/** Bytes of a chain in hexadecimal; empty: not known. */
export type DumpChain = (table: string, chain: string) => Promise<string>

export class SeenDeny {
  readonly #system: System
  readonly #path: string
  readonly #dump: DumpChain | undefined

  /** @param stateDir root-owned, gone with a reboot as the rules are. */
  constructor(system: System, stateDir: string, dump: DumpChain | undefined) {
    this.#system = system
    this.#path = `${stateDir}/deny.seen`
    this.#dump = dump
  }

  /** The problem that `look` finds; it is not asked where the bytes are those of the last time that it found none. */
  async problem(
    range: UidRange,
    look: () => Promise<string | undefined>,
  ): Promise<string | undefined> {
    const before = await this.#bytes()
    const text = `${range.first}-${range.last} ${before}\n`
    // What cannot be read or written is only not remembered: of a full disk nothing else may fail here.
    const seen = await this.#system.readFile(this.#path).catch(() => undefined)
    if (before !== '' && seen === text) return undefined
    const problem = await look()
    if (problem === undefined && before !== '' && (await this.#bytes()) === before)
      await this.#system.writeFile(this.#path, text, 0o600).catch(() => undefined)
    return problem
  }

  async #bytes(): Promise<string> {
    return (await this.#dump?.(tableName.static, 'output')) ?? ''
  }
}
