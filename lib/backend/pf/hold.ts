/**
 * The network of one running jail on macOS.
 * Invariant: pins live in the jail's own tables; one that expired or lost its grant is closed at the next packet.
 */
import type { Decision } from '../../audit/record.js'
import type { System } from '../../system/types.js'
import type { GatePort, NetworkHold, NetworkPlan, Pin } from '../types.js'
import type { PfAnchor } from './anchor.js'
import { pfJail } from './jail.js'
import { parseStates, parseTable } from './listing.js'
import type { DenialLog } from './log.js'
import { pinTable } from './names.js'
import type { PfStore } from './store.js'

/** A change by another jail's warden is journalled first and loaded milliseconds later. */
const settleRetries = 3
const settlePause = 80

export class PfHold implements NetworkHold {
  readonly netns = undefined
  readonly installed = Promise.resolve()
  readonly #system: System
  readonly #anchor: PfAnchor
  readonly #log: DenialLog | undefined
  #plan: NetworkPlan
  #gate: readonly GatePort[] = []
  /** Grant -> address -> end, in milliseconds of the monotonic clock. */
  #pins = new Map<string, Map<string, number>>()

  constructor(system: System, anchor: PfAnchor, plan: NetworkPlan, log: DenialLog | undefined) {
    this.#system = system
    this.#anchor = anchor
    this.#plan = plan
    this.#log = log
  }

  /** Its rules, without a gate yet, and tables without an address: no load empties those that a crash left. */
  async begin(): Promise<void> {
    await this.connectGate([])
    for (const { grant } of this.#plan.pinned) await this.#fill(grant)
  }

  async connectGate(ports: readonly GatePort[]): Promise<void> {
    const before = this.#gate
    this.#gate = ports
    try {
      await this.#anchor.change('opening', (store) => this.#with(store))
    } catch (error) {
      this.#gate = before
      throw error
    }
  }

  async pin(pins: readonly Pin[]): Promise<void> {
    const now = this.#system.monotonic()
    const touched = new Set<string>()
    for (const { grant, address, seconds } of pins) {
      const planned = this.#plan.pinned.some((each) => each.grant === grant)
      if (!planned || (address.includes(':') && !this.#plan.ipv6)) continue
      const known = this.#pins.get(grant) ?? new Map<string, number>()
      // Names share addresses: the longest time counts.
      known.set(address, Math.max(known.get(address) ?? 0, now + seconds * 1000))
      this.#pins.set(grant, known)
      touched.add(grant)
    }
    for (const grant of touched) await this.#fill(grant)
  }

  async update(plan: NetworkPlan, ports?: readonly GatePort[]): Promise<void> {
    const before = { plan: this.#plan, pins: this.#pins, gate: this.#gate }
    const keys = new Map(plan.pinned.map(({ grant, key }) => [grant, key]))
    const changed = before.plan.pinned.filter(({ grant, key }) => keys.get(grant) !== key)
    const withdrawn = changed.flatMap(({ grant }) => [...(before.pins.get(grant)?.keys() ?? [])])
    this.#plan = plan
    this.#gate = ports ?? before.gate
    this.#pins = new Map(
      [...before.pins].filter(([grant]) => changed.every((each) => each.grant !== grant)),
    )
    let isIn = false
    try {
      // A grant id that now means something else must not inherit the addresses of the old one.
      for (const { grant } of changed)
        await this.#anchor.pfctl.replaceTable(pinTable(plan.uid, grant), [])
      await this.#anchor.change('opening', (store) => this.#with(store))
      isIn = true
      await this.#killStates(withdrawn)
    } catch (error) {
      this.#plan = before.plan
      this.#gate = before.gate
      this.#pins = before.pins
      if (isIn) await this.#anchor.change('opening', (store) => this.#with(store))
      for (const { grant } of changed) await this.#fill(grant).catch(() => undefined)
      throw error
    }
  }

  async denials(): Promise<readonly Decision[]> {
    const { jails } = await this.#anchor.read()
    return this.#log?.take(jails, this.#plan) ?? []
  }

  async intact(): Promise<boolean> {
    await this.#expire()
    if (this.#gate.some(({ role }) => role !== 'proxy')) {
      // Where the table is gone with the rest, the comparison below says so.
      const store = await this.#anchor.read()
      await this.#anchor.refreshOwnAddresses(store).catch(() => undefined)
    }
    for (let attempt = 0; ; attempt++) {
      if ((await this.#difference()) === undefined) return true
      if (attempt === settleRetries) return false
      await this.#system.sleep(settlePause)
    }
  }

  async restore(): Promise<void> {
    const store = this.#with(await this.#anchor.read())
    await this.#anchor.checkPlace(store)
    await this.#anchor.put(store)
    for (const { grant } of this.#plan.pinned) await this.#fill(grant)
  }

  async close(): Promise<boolean> {
    this.#log?.end()
    const addresses = [...this.#pins.values()].flatMap((known) => [...known.keys()])
    this.#pins = new Map()
    await this.#anchor.change('closing', (store) => without(store, this.#plan.jail))
    await this.#killStates(addresses)
    return false
  }

  /** The store with this jail as it is to be now. */
  #with(store: PfStore): PfStore {
    const others = store.jails.filter(({ name }) => name !== this.#plan.jail)
    return { ...store, jails: [...others, pfJail(this.#plan, this.#gate)] }
  }

  async #difference(): Promise<string | undefined> {
    const store = await this.#anchor.read()
    if (!store.jails.some(({ name }) => name === this.#plan.jail))
      return 'the jail is not in the state file'
    const difference = await this.#anchor.difference(store)
    if (difference !== undefined) return difference
    for (const { grant } of this.#plan.pinned) {
      const shown = await this.#anchor.pfctl.showTable(pinTable(this.#plan.uid, grant))
      const wanted = [...(this.#pins.get(grant)?.keys() ?? [])].sort().join(' ')
      if (shown === undefined || parseTable(shown).sort().join(' ') !== wanted)
        return `the addresses of ${grant} are not as they were set`
    }
    return undefined
  }

  async #fill(grant: string): Promise<void> {
    const addresses = [...(this.#pins.get(grant)?.keys() ?? [])].sort()
    await this.#anchor.pfctl.replaceTable(pinTable(this.#plan.uid, grant), addresses)
  }

  async #expire(): Promise<void> {
    const now = this.#system.monotonic()
    const gone: string[] = []
    for (const [grant, known] of this.#pins) {
      const late = [...known].filter(([, end]) => end <= now).map(([address]) => address)
      if (late.length === 0) continue
      for (const address of late) known.delete(address)
      gone.push(...late)
      await this.#fill(grant)
    }
    await this.#killStates(gone)
  }

  /**
   * Our own passes make no state, but another product's rule may have made one for the same connection, and pf
   * looks at states first. Only addresses that no grant has any more, and only where such a state exists:
   * states know no user.
   */
  async #killStates(addresses: readonly string[]): Promise<void> {
    const still = new Set([...this.#pins.values()].flatMap((known) => [...known.keys()]))
    const withdrawn = new Set(addresses.filter((address) => !still.has(address)))
    if (withdrawn.size === 0) return
    for (const { left, right } of parseStates(await this.#anchor.pfctl.list('states', 'main'))) {
      if (!withdrawn.has(left) && !withdrawn.has(right)) continue
      await this.#anchor.pfctl.killStates(left, right)
      await this.#anchor.pfctl.killStates(right, left)
    }
  }
}

export function without(store: PfStore, jail: string): PfStore {
  return { ...store, jails: store.jails.filter(({ name }) => name !== jail) }
}
