/**
 * `isolation: uid`: the jail stays on the host's network and its uid is held by the host's nftables.
 * Invariant: a jail's part goes in as one transaction and is read back; whatever anybody deletes closes, never opens.
 */
import type { Decision } from '../../audit/record.js'
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import { ensureGuard, isGuardUp } from '../guard.js'
import type { GuardPlace } from '../guard.js'
import type { GatePort, NetworkHold, NetworkPlan, Pin, UidRange } from '../types.js'
import type { Element, Table } from './ast.js'
import { DenialReader } from './denials.js'
import { ensureGroup, nftGuard } from './guard.js'
import type { ListTable } from './guard.js'
import { printElement, printTable } from './print.js'
import { findDifference } from './readback.js'
import { removalOf } from './removal.js'
import { openNft } from './session.js'
import type { NftSession } from './session.js'
import { deniedSet, jailNames, staticTable, tableName, uidBase, uidJail } from './tables.js'

const table = `inet ${tableName.uid}`
const listTable = `list table ${table}`

export interface UidPlace {
  readonly nft: string
  readonly guard: GuardPlace
  /** By an nft of its own: a session takes longest to say that something is not there. */
  readonly list: ListTable
}

/** Changes nothing yet: guard, base table and the jail's own part go in together, with `connectGate`. */
export function openUid(system: System, place: UidPlace, plan: NetworkPlan): NetworkHold {
  return new UidHold(system, place, plan)
}

class UidHold implements NetworkHold {
  readonly netns = undefined
  readonly installed = Promise.resolve()
  readonly #system: System
  readonly #place: UidPlace
  #nft: NftSession
  readonly #denials: DenialReader
  /** Pin set to address to when it runs out, in monotonic milliseconds: what a restore puts back. */
  readonly #pins = new Map<string, Map<string, number>>()
  #plan: NetworkPlan
  #gate: readonly GatePort[] = []

  constructor(system: System, place: UidPlace, plan: NetworkPlan) {
    this.#system = system
    this.#place = place
    this.#nft = openNft(system, [place.nft, '-j', '-i'])
    this.#plan = plan
    const names = jailNames(plan.jail)
    this.#denials = new DenialReader(names.suffix, names.overflow)
  }

  /** The whole table anew where it is not whole: other jails' parts are put back by their own watches. */
  async #ensureBase(): Promise<void> {
    const base = uidBase(this.#plan.range)
    const listing = await this.#nft.change([`add table ${table}`], listTable)
    if (findDifference(base, listing, 'part') === undefined) return
    await this.#nft.change([`delete table ${table}`, ...printTable(base)], listTable)
    this.#mustBeIn(base, await this.#listing())
  }

  async connectGate(ports: readonly GatePort[]): Promise<void> {
    this.#gate = ports
    const { nft, guard, list } = this.#place
    await ensureGroup(this.#system, this.#plan)
    await ensureGuard(this.#system, guard, nftGuard(this.#system, nft, this.#plan, list))
    await this.#ensureBase()
    const part = uidJail(this.#plan, ports)
    // What a dead jail of this name left is replaced in the same transaction.
    const stale = removalOf(this.#plan.jail, this.#plan.uid, await this.#listing())
    await this.#nft.change([...stale, ...printTable(part)], listTable)
    this.#mustBeIn(part, await this.#listing())
  }

  async pin(pins: readonly Pin[]): Promise<void> {
    // A grant whose ports all go through the gate (80 always does) has nothing to open in the kernel.
    const direct = new Set(this.#plan.pinned.map(({ grant }) => grant))
    const elements = pins.filter(({ grant }) => direct.has(grant)).map((pin) => this.#remember(pin))
    if (elements.length === 0) return
    // Added, deleted, added: a pin that stands already gets the new time on every kernel.
    const commands = elements.flatMap((element) => {
      const bare = printElement(tableName.uid, { kind: 'set', set: element.set, key: element.key })
      return [`add ${bare}`, `delete ${bare}`, `add ${printElement(tableName.uid, element)}`]
    })
    await this.#nft.change(commands, `list counter ${table} ${jailNames(this.#plan.jail).overflow}`)
  }

  #remember(pin: Pin): Element {
    const set = jailNames(this.#plan.jail).pins(pin.address.includes(':') ? 6 : 4, pin.grant)
    const pins = this.#pins.get(set) ?? new Map<string, number>()
    this.#pins.set(set, pins)
    const now = this.#system.monotonic()
    for (const [address, until] of pins) if (until <= now) pins.delete(address)
    const until = Math.max(now + pin.seconds * 1000, pins.get(pin.address) ?? 0)
    pins.set(pin.address, until)
    return { kind: 'set', set, key: [pin.address], timeout: Math.ceil((until - now) / 1000) }
  }

  /** Pins that stand, for grants that `plan` still has unchanged, under their new names. */
  #carriedPins(plan: NetworkPlan): Map<string, Map<string, number>> {
    const names = jailNames(plan.jail)
    const carried = new Map<string, Map<string, number>>()
    for (const grant of plan.pinned) {
      const before = this.#plan.pinned.find(({ key }) => key === grant.key)
      if (before === undefined) continue
      for (const family of [4, 6] as const) {
        const pins = this.#pins.get(names.pins(family, before.grant))
        if (pins !== undefined) carried.set(names.pins(family, grant.grant), pins)
      }
    }
    return carried
  }

  #elementsOf(carried: ReadonlyMap<string, ReadonlyMap<string, number>>): Element[] {
    const now = this.#system.monotonic()
    return [...carried].flatMap(([set, pins]) =>
      [...pins]
        .filter(([, until]) => until > now)
        .map(([address, until]): Element => ({
          kind: 'set',
          set,
          key: [address],
          timeout: Math.ceil((until - now) / 1000),
        })),
    )
  }

  async update(plan: NetworkPlan, ports: readonly GatePort[] = this.#gate): Promise<void> {
    const carried = this.#carriedPins(plan)
    const stale = removalOf(this.#plan.jail, this.#plan.uid, await this.#listing())
    const part = uidJail(plan, ports)
    const pins = this.#elementsOf(carried).map(
      (element) => `add ${printElement(tableName.uid, element)}`,
    )
    await this.#nft.change([...stale, ...printTable(part), ...pins], listTable)
    // Only what is in the kernel is what a later look expects there.
    this.#plan = plan
    this.#gate = ports
    this.#pins.clear()
    for (const [set, pinned] of carried) this.#pins.set(set, pinned)
    this.#mustBeIn(part, await this.#listing())
  }

  async denials(): Promise<readonly Decision[]> {
    const { suffix, overflow } = jailNames(this.#plan.jail)
    const decisions: Decision[] = []
    for (const family of [4, 6] as const) {
      for (const kind of ['port', 'other'] as const) {
        decisions.push(
          ...this.#denials.read(
            await this.#nft.list(`list set ${table} ${deniedSet(family, kind, suffix)}`),
          ),
        )
      }
    }
    decisions.push(...this.#denials.read(await this.#nft.list(`list counter ${table} ${overflow}`)))
    return decisions
  }

  async intact(): Promise<boolean> {
    try {
      const listing = await this.#listing()
      const parts = [uidBase(this.#plan.range), uidJail(this.#plan, this.#gate)]
      return (
        parts.every((part) => findDifference(part, listing, 'part') === undefined) &&
        findDifference(staticTable(this.#plan.range), await this.#list(tableName.static)) ===
          undefined &&
        (await isGuardUp(
          this.#system,
          this.#place.guard,
          nftGuard(this.#system, this.#place.nft, this.#plan, this.#list, 'held'),
        ))
      )
    } catch {
      // The session ended, or cannot be asked: restoring it is what finds out.
      return false
    }
  }

  async restore(): Promise<void> {
    if (this.#nft.hasEnded()) this.#nft = openNft(this.#system, [this.#place.nft, '-j', '-i'])
    await restoreStatic(this.#nft, this.#plan.range)
    const { nft, guard, list } = this.#place
    await ensureGroup(this.#system, this.#plan)
    await ensureGuard(this.#system, guard, nftGuard(this.#system, nft, this.#plan, list))
    await this.#ensureBase()
    await this.update(this.#plan)
  }

  async close(): Promise<void> {
    try {
      if (this.#nft.hasEnded()) return
      const stale = removalOf(this.#plan.jail, this.#plan.uid, await this.#listing())
      if (stale.length > 0) await this.#nft.change(stale, listTable)
    } finally {
      this.#nft.kill()
    }
  }

  async #listing(): Promise<unknown> {
    return (await this.#list(tableName.uid)) ?? { nftables: [] }
  }

  readonly #list = async (name: string): Promise<unknown> => {
    try {
      return await this.#nft.list(`list table inet ${name}`)
    } catch (error) {
      // A table that is gone is an error to nft, and the very thing asked about.
      if (error instanceof JailError && error.message.includes('No such file')) return undefined
      throw error
    }
  }

  #mustBeIn(part: Table, listing: unknown): void {
    const difference = findDifference(part, listing, 'part')
    if (difference !== undefined)
      throw new JailError('VERIFY_FAILED', `the rules are not in force: ${difference}`)
  }
}

async function restoreStatic(nft: NftSession, range: UidRange): Promise<void> {
  const wanted = staticTable(range)
  const at = `inet ${tableName.static}`
  // `add` before `delete`: the delete succeeds whether or not the table is there, in the same transaction.
  const listing = await nft.change(
    [`add table ${at}`, `delete table ${at}`, ...printTable(wanted)],
    `list table ${at}`,
  )
  const difference = findDifference(wanted, listing)
  if (difference !== undefined)
    throw new JailError('VERIFY_FAILED', `the static deny is not in force: ${difference}`)
}
