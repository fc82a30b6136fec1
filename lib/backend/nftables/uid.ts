/**
 * `isolation: uid`: the jail stays on the host's network and its uid is held by the host's nftables.
 * Invariant: a jail's part goes in as one transaction and is read back; whatever anybody deletes closes, never opens.
 */
import type { Decision } from '../../audit/record.js'
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import { endGuard, ensureGuard, isGuardHeld, isGuardUp } from '../guard.js'
import type { GuardPlace } from '../guard.js'
import { unlocked } from '../types.js'
import type { GatePort, Mended, NetworkHold, NetworkPlan, Pin, RuleMonitor } from '../types.js'
import type { Element, Table } from './ast.js'
import { DenialReader } from './denials.js'
import { ensureGroup, nftGuard } from './guard.js'
import type { ListTable } from './guard.js'
import { openMonitor } from './monitor.js'
import { WrittenParts } from './parts.js'
import { printElement, printTable } from './print.js'
import { bodyOf, findDifference, hasElement, hasTimed, listedItems } from './readback.js'
import { jailMaps, removalFrom, removalOf } from './removal.js'
import { openNft } from './session.js'
import type { NftSession } from './session.js'
import { findStaticProblem, restoreStatic } from './static-deny.js'
import { HeldPins } from './held-pins.js'
import { deniedSet } from './refusals.js'
import { tableName } from './tables.js'
import { jailNames, uidBase } from './uid-base.js'
import { uidJail } from './uid-jail.js'

const table = `inet ${tableName.uid}`
const listTable = `list table ${table}`
/** One in so many glances asks nft. */
const askEvery = 5
/** One in so many readings of what was refused also reads the overflow. */
const overflowEvery = 10
/** Of a restoration. */
const maxTries = 3

export interface UidPlace {
  readonly nft: string
  readonly perl: string
  readonly guard: GuardPlace
  /** Root-owned directory, e.g. /run/agentjail. */
  readonly stateDir: string
}

/** Changes nothing yet: guard, base table and the jail's own part go in together, with `connectGate`. */
export function openUid(
  system: System,
  place: UidPlace,
  plan: NetworkPlan,
  nft: NftSession,
): NetworkHold {
  return new UidHold(system, place, plan, nft)
}

class UidHold implements NetworkHold {
  readonly netns = undefined
  readonly installed = Promise.resolve()
  readonly #system: System
  readonly #place: UidPlace
  #nft: NftSession
  readonly #denials: DenialReader
  readonly #written: WrittenParts
  /** What a restore puts back. */
  readonly #pins: HeldPins
  #plan: NetworkPlan
  #gate: readonly GatePort[] = []
  /** The jail's own part, as it went in; undefined: not yet. */
  #part: Table | undefined
  #glances = 0
  /** Readings of what was refused, since the overflow counter was read. */
  #readings = 0

  constructor(system: System, place: UidPlace, plan: NetworkPlan, nft: NftSession) {
    this.#system = system
    this.#place = place
    this.#nft = nft
    this.#plan = plan
    const names = jailNames(plan.jail)
    this.#denials = new DenialReader(names.suffix, names.overflow)
    this.#written = new WrittenParts(system, place.stateDir)
    this.#pins = new HeldPins(() => system.monotonic())
  }

  async connectGate(ports: readonly GatePort[]): Promise<void> {
    const isFirst = !(await this.#isGuarded(this.#seek))
    // With namespaces alone the machine has the lesser form.
    if (!(await this.#isStaticallyDenied(this.#seek)))
      await restoreStatic(this.#nft, this.#plan.range)
    await this.#ensureGuard()
    await this.#put(this.#plan, ports, [], isFirst)
  }

  /**
   * `isDamaged`: what is there is not expected to be whole.
   * The jail's part, in one transaction with the removal of what was there, and read back. A listing of the shared
   * table is by far the dearest step where there are many jails: one is enough where everything is as expected.
   */
  async #put(
    plan: NetworkPlan,
    ports: readonly GatePort[],
    pins: readonly string[],
    isDamaged = false,
  ): Promise<void> {
    const part = uidJail(plan, ports)
    await this.#written.write(plan, ports)
    const commands = [...printTable(part), ...pins]
    const swapped = isDamaged ? undefined : await this.#swap(part, commands)
    const listing = swapped ?? (await this.#replace(commands))
    if (swapped === undefined) this.#denials.forget()
    // Only what is in the kernel is what a later look expects there.
    this.#plan = plan
    this.#gate = ports
    this.#part = part
    const difference = this.#differs(part, listing)
    if (difference !== undefined)
      throw new JailError('VERIFY_FAILED', `the rules are not in force: ${difference}`)
  }

  /** Undefined, and nothing changed or all of it to be replaced: what is there is not what was expected. */
  async #swap(part: Table, commands: readonly string[]): Promise<unknown> {
    // `create` refuses what exists: a dead jail's part of this name.
    const first =
      this.#part === undefined
        ? [`create chain ${table} ${jailNames(this.#plan.jail).chain}`]
        : removalFrom(this.#part, 'but denials')
    try {
      const listing = await this.#nft.change([...first, ...commands], listTable)
      return this.#differs(part, listing) === undefined ? listing : undefined
    } catch {
      return undefined
    }
  }

  /** Where the table is not whole: all of it anew, with what every other jail has in it, but their pins. */
  async #replace(commands: readonly string[]): Promise<unknown> {
    const base = uidBase(this.#plan.range, this.#plan.groups)
    const found = await this.#seek(tableName.uid)
    if (found !== undefined && findDifference(base, found, 'part') === undefined) {
      const stale = removalOf(this.#plan.jail, this.#plan.uid, found)
      return await this.#nft.change([...stale, ...commands], listTable)
    }
    const anew = [`add table ${table}`, `delete table ${table}`, ...printTable(base), ...commands]
    const others = await this.#written.others(this.#plan)
    const all = [...anew, ...others.flatMap(({ part }) => printTable(part))]
    // One that cannot be put back is no reason to leave this one denied: its own watch tries again, and tells why.
    if (others.length === 0 || !(await this.#load(all)))
      return await this.#nft.change(anew, listTable)
    // What is damaged from here on is found after it.
    const at = this.#system.monotonic()
    const listing = await this.#nft.list(listTable)
    const right = others.filter(({ part }) => this.#differs(part, listing) === undefined)
    await this.#written.vouch(
      at,
      right.map(({ jail }) => jail),
    )
    return listing
  }

  /** Too much for the line of a session. False: refused as a whole. */
  async #load(commands: readonly string[]): Promise<boolean> {
    const input = `${commands.join('\n')}\n`
    const argv = [this.#place.nft, '-f', '-'] as const
    return (await this.#system.run(argv, { input, timeout: 60_000 })).code === 0
  }

  #differs(part: Table, listing: unknown): string | undefined {
    return (
      findDifference(uidBase(this.#plan.range, this.#plan.groups), listing, 'part') ??
      findDifference(part, listing, 'part')
    )
  }

  async pin(pins: readonly Pin[]): Promise<void> {
    const { jail } = this.#plan
    // A grant whose ports all go through the gate (80 always does) has nothing to open in the kernel.
    const direct = new Set(this.#plan.pinned.map(({ grant }) => grant))
    const elements = pins
      .filter(({ grant }) => direct.has(grant))
      .map((pin) => this.#pins.add(jail, pin))
    if (elements.length === 0) return
    // Added, deleted, added: a pin that stands already gets the new time on every kernel.
    const commands = elements.flatMap((element) => {
      const bare = printElement(tableName.uid, { kind: 'set', set: element.set, key: element.key })
      return [`add ${bare}`, `delete ${bare}`, adding(element)]
    })
    await this.#nft.change(commands, this.#ack())
  }

  /** Lists next to nothing: a set by its name is all that nft looks up without reading the whole table. */
  #ack(): string {
    return `list set ${table} ${deniedSet(6, 'other', jailNames(this.#plan.jail).suffix)}`
  }

  update(plan: NetworkPlan, ports: readonly GatePort[] = this.#gate): Promise<void> {
    return this.#change(plan, ports)
  }

  async #change(plan: NetworkPlan, ports: readonly GatePort[], isDamaged = false): Promise<void> {
    const carried = this.#pins.carriedTo(plan, this.#plan)
    await this.#put(plan, ports, carried.elements().map(adding), isDamaged)
    this.#pins.become(carried)
  }

  async denials(isLast = false): Promise<readonly Decision[]> {
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
    // A counter is listed with the whole table. It counts only where a set is full.
    if (this.#denials.isFull && (isLast || this.#readings++ % overflowEvery === 0)) {
      const listing = await this.#nft.list(`list counter ${table} ${overflow}`)
      decisions.push(...this.#denials.read(listing))
    }
    return decisions
  }

  async intact(): Promise<boolean> {
    try {
      const missing = await this.#missingPins()
      return missing?.length === 0 && (await this.#isDenied())
    } catch {
      // The session ended, or cannot be asked: restoring it is what finds out.
      return false
    }
  }

  /** Pins in force that the kernel does not have. Undefined: nor all of the rest of the shared table and the jail's part. */
  async #missingPins(): Promise<Element[] | undefined> {
    // Asked for before the list, and so before a pin that is being made.
    const pins = this.#pins.copy()
    const listing = await this.#listing()
    const part = this.#part ?? uidJail(this.#plan, this.#gate)
    if (this.#differs(part, listing) !== undefined) return undefined
    return pins
      .elements()
      .filter(({ set, key }) => !hasTimed(listing, tableName.uid, set, key[0] ?? ''))
  }

  async glance(): Promise<boolean> {
    try {
      if (this.#nft.hasEnded() || !(await isGuardHeld(this.#system, this.#place.guard)))
        return false
      // The kernel announces the rest; a hundred jails that ask nft at each glance keep a processor busy.
      if (++this.#glances % askEvery !== 0) return true
      const { uid } = this.#plan
      for (const map of jailMaps)
        if (!hasElement(await this.#nft.list(`list map ${table} ${map}`), tableName.uid, map, uid))
          return false
      return await this.#isDenied()
    } catch {
      return false
    }
  }

  /** By the static deny and the guard. */
  async #isDenied(): Promise<boolean> {
    return (await this.#isStaticallyDenied(this.#list)) && (await this.#isGuarded(this.#list))
  }

  async #isStaticallyDenied(list: ListTable): Promise<boolean> {
    const listing = await list(tableName.static)
    return findStaticProblem(this.#plan.range, listing, 'flows') === undefined
  }

  #isGuarded(list: ListTable): Promise<boolean> {
    const { guard, nft } = this.#place
    const maker = nftGuard(this.#system, nft, this.#plan, list, 'held')
    return isGuardUp(this.#system, guard, maker)
  }

  async #ensureGuard(): Promise<void> {
    const { guard, nft } = this.#place
    await ensureGroup(this.#system, this.#plan)
    const maker = nftGuard(this.#system, nft, this.#plan, this.#seek)
    await ensureGuard(this.#system, guard, maker)
  }

  monitor(onChange: () => void, onEnd: () => void): RuleMonitor {
    const { chain, nat, inward } = jailNames(this.#plan.jail)
    const shared = {
      table: tableName.uid,
      chains: [
        ...[chain, nat, inward],
        ...uidBase(this.#plan.range, this.#plan.groups).chains.map(({ name }) => name),
      ],
      maps: jailMaps,
      uid: this.#plan.uid,
    }
    const filter = { tables: [tableName.static, tableName.guard, tableName.inward], shared }
    const hurried = [process.pid, this.#nft.pid]
    return openMonitor(this.#system, this.#place.perl, filter, onChange, onEnd, hurried)
  }

  async restore(mended: Mended = unlocked): Promise<void> {
    if (this.#nft.hasEnded()) this.#nft = openNft(this.#system, [this.#place.nft, '-j', '-i'])
    // Nothing denies: that waits for no lock. It goes in as a whole, whoever else does the same.
    if (!(await this.#isStaticallyDenied(this.#list)) && !(await this.#isGuarded(this.#list)))
      await restoreStatic(this.#nft, this.#plan.range)
    const { jail } = this.#plan
    for (let tries = 1; ; tries++) {
      const since = this.#system.monotonic()
      await mended(
        async () => {
          if (!(await this.#isWhole())) await this.#restoreShared()
        },
        () => this.#written.isVouched(jail, since),
      )
      const pins = this.#pins.elements().map(adding)
      try {
        if (pins.length > 0) await this.#nft.change(pins, this.#ack())
        return
      } catch (error) {
        // Gone again meanwhile, say.
        if (tries === maxTries) throw error
      }
    }
  }

  /** All but the pins. */
  async #isWhole(): Promise<boolean> {
    try {
      return (await this.#missingPins()) !== undefined && (await this.#isDenied())
    } catch {
      return false
    }
  }

  async #restoreShared(): Promise<void> {
    // Every other jail's watch looks at all when these change: whoever finds them whole leaves them alone.
    if (!(await this.#isStaticallyDenied(this.#list)))
      await restoreStatic(this.#nft, this.#plan.range)
    if (!(await this.#isGuarded(this.#list))) await this.#ensureGuard()
    await this.#change(this.#plan, this.#gate, true)
  }

  release(): void {
    this.#nft.kill()
  }

  async close(): Promise<boolean> {
    try {
      if (this.#nft.hasEnded()) return false
      // Before the rules: nobody puts back what is being taken away.
      await this.#written.remove(this.#plan.jail)
      if (await this.#isAlone()) return await this.#removeAll()
      if (await this.#removeOwn()) return true
      const stale = removalOf(this.#plan.jail, this.#plan.uid, await this.#listing())
      if (stale.length > 0) await this.#nft.change(stale, listTable)
      return false
    } finally {
      this.release()
    }
  }

  /** No other jail, dead or alive, has a part in the shared table. */
  async #isAlone(): Promise<boolean> {
    const own = Object.values(jailNames(this.#plan.jail))
    return (await this.#chains(tableName.uid)).every(
      (name) => !name.startsWith(jailNames('').chain) || own.includes(name),
    )
  }

  /** Names of a table's chains; none: there is no such table. By name alone: with many jails the table itself is long. */
  async #chains(name: string): Promise<string[]> {
    const listed = listedItems(await this.#nft.list('list chains inet')) ?? []
    return listed.flatMap((item) => {
      const { table: of, name: chain } = bodyOf(item)
      return 'chain' in item && of === name && typeof chain === 'string' ? [chain] : []
    })
  }

  /** With the last jail, all that is only there for jails; the kernel takes both away at the same time. */
  async #removeAll(): Promise<boolean> {
    const gone = this.#nft.change(
      [`add table ${table}`, `delete table ${table}`],
      'list chains inet',
    )
    const ended = endGuard(this.#system, this.#place.guard, {
      look: async () => ((await this.#chains(tableName.guard)).length > 0 ? 'other' : 'absent'),
    })
    await Promise.all([gone, ended, this.#written.forget()])
    return (await this.#chains(tableName.uid)).length === 0
  }

  /** False: it is not there as it went in. */
  async #removeOwn(): Promise<boolean> {
    if (this.#part === undefined) return false
    try {
      await this.#nft.change(removalFrom(this.#part), `list map ${table} ${jailMaps[0]}`)
      return true
    } catch {
      return false
    }
  }

  async #listing(): Promise<unknown> {
    return (await this.#list(tableName.uid)) ?? { nftables: [] }
  }

  /**
   * A table that has an owner is listed by its chain: what nft 1.0.6 prints of such a table's flags may be anything, no
   * JSON among it.
   */
  readonly #list = async (name: string): Promise<unknown> => {
    const chain = ownedChains.get(name)
    try {
      if (chain === undefined) return await this.#nft.list(`list table inet ${name}`)
      const items = listedItems(await this.#nft.list(`list chain inet ${name} ${chain}`)) ?? []
      return { nftables: [{ table: { family: 'inet', name } }, ...items] }
    } catch (error) {
      // A table that is gone is an error to nft, and the very thing asked about.
      if (error instanceof JailError && error.message.includes('No such file')) return undefined
      throw error
    }
  }

  /** As `#list`, where it may well not be there: a session takes long to say so. */
  readonly #seek = async (name: string): Promise<unknown> =>
    (await this.#chains(name)).length === 0 ? undefined : await this.#list(name)
}

const adding = (element: Element): string => `add ${printElement(tableName.uid, element)}`

const ownedChains: ReadonlyMap<string, string> = new Map([
  [tableName.guard, 'output'],
  [tableName.inward, 'input'],
])
