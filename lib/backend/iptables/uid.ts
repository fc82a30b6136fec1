/**
 * `isolation: uid`: the jail stays on the host's network and its uid is held by the host's iptables.
 * Invariant: each table of each family changes in one transaction, and no order of them opens more than the plan before
 * and the plan after; all is read back; whatever anybody deletes of one table closes.
 */
import type { Decision } from '../../audit/record.js'
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import { endGuard, ensureGuard, isGuardHeld } from '../guard.js'
import type { GuardMaker, GuardPlace } from '../guard.js'
import { unlocked } from '../types.js'
import type { GatePort, Locked, Mended, NetworkHold, NetworkPlan, Pin, UidRange } from '../types.js'
import { printChange, printSets } from './ast.js'
import type { Change, Family } from './ast.js'
import { baseChanges, findBaseProblem, hasGates, idleChanges, jailUids } from './base.js'
import { DenialReader } from './denials.js'
import { findJailProblem, jailChanges, jailRemoval, listedGatePorts } from './jail.js'
import type { JailPart } from './jail.js'
import { Pins } from './pins.js'
import type { ListedElement, Listing } from './readback.js'
import {
  denialSets,
  families,
  gateSets,
  grantSets,
  jailNames,
  leads,
  sharedSets,
} from './tables.js'
import type { Tool } from './tool.js'

type Listings = Readonly<Record<Family, Listing>>

/** Loads changes, each table a transaction; nothing when there are none. */
export async function apply(tool: Tool, family: Family, changes: readonly Change[]): Promise<void> {
  if (changes.length === 0) return
  await tool.load(
    family,
    changes.flatMap((change) => printChange(family, change)),
  )
}

/** The deny of the range, in both families; with what protects gates where jails run. Read back always. */
export async function ensureBase(
  tool: Tool,
  range: UidRange,
  gates: 'needed' | 'either',
  locked: Locked = unlocked,
): Promise<void> {
  if (gates === 'needed') await tool.loadSets(printSets(sharedSets, []))
  const find = (listings: Listings): Family[] =>
    families.filter(
      (family) => findBaseProblem(family, range, listings[family], gates) !== undefined,
    )
  if (find(await tool.lists()).length === 0) return
  // Its steps and another's would be in each other's way.
  await locked(async () => {
    const listings = await tool.lists()
    await mend(tool, range, gates, listings, find(listings))
  })
}

async function mend(
  tool: Tool,
  range: UidRange,
  gates: 'needed' | 'either',
  listings: Listings,
  broken: readonly Family[],
): Promise<void> {
  if (broken.length === 0) return
  for (const family of broken) {
    const withGates = gates === 'needed' || hasGates(listings[family])
    await apply(tool, family, baseChanges(family, range, listings[family], withGates))
  }
  const after = await tool.lists()
  for (const family of families) mustHold(findBaseProblem(family, range, after[family], gates))
}

function mustHold(problem: string | undefined): void {
  if (problem !== undefined)
    throw new JailError('VERIFY_FAILED', `the rules are not in force: ${problem}`)
}

/** The deny that outlives a flush of every table of iptables. */
export interface Guard {
  readonly place: GuardPlace
  readonly maker: GuardMaker
}

/** All of one uid's jail out, and what only jails need if it was the last. Idempotent. */
export async function removeJail(
  system: System,
  tool: Tool,
  guard: Guard,
  uid: number,
  range: UidRange,
): Promise<void> {
  const listings = await tool.lists()
  for (const family of families)
    await apply(tool, family, jailRemoval(family, uid, range, listings[family]))
  const names = await tool.setNames()
  const { isSet } = jailNames(uid)
  const left = families.flatMap((family) => jailUids(listings[family])).filter((one) => one !== uid)
  const ports = new Map(
    families
      .flatMap((family) => listedGatePorts(uid, listings[family]))
      .map(({ proto, port }) => [`${gateSets[proto]} ${port}`, gateSets[proto]]),
  )
  await tool.loadSets([
    ...[...ports].flatMap(([element, set]) => (names.includes(set) ? [`del ${element}`] : [])),
    ...names.filter(isSet).map((name) => `destroy ${name}`),
  ])
  const shared = names.filter((name) => Object.values<string>(gateSets).includes(name))
  const hasBase = families.some((family) => hasGates(listings[family]))
  if (left.length > 0) return
  await endGuard(system, guard.place, guard.maker)
  if (!hasBase && shared.length === 0) return
  const now = await tool.lists()
  for (const family of families) await apply(tool, family, idleChanges(family, range, now[family]))
  await tool.loadSets(shared.map((name) => `destroy ${name}`))
}

export class UidHold implements NetworkHold {
  readonly netns = undefined
  readonly installed = Promise.resolve()
  readonly #system: System
  readonly #tool: Tool
  readonly #guard: Guard
  readonly #denials: DenialReader
  readonly #pins = new Pins()
  #plan: NetworkPlan
  #gate: readonly GatePort[] = []
  #round = 0
  /** A change is many steps here: nothing looks or pins between two of them. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(system: System, tool: Tool, guard: Guard, plan: NetworkPlan) {
    this.#system = system
    this.#tool = tool
    this.#guard = guard
    this.#plan = plan
    // Throws where the uid is none that the static deny holds.
    leads(plan.uid, plan.range)
    const names = jailNames(plan.uid)
    this.#denials = new DenialReader(families.map((family) => names.overflowSet(family)))
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work)
    this.#last = turn.catch(() => undefined)
    return turn
  }

  connectGate(ports: readonly GatePort[]): Promise<void> {
    return this.#inTurn(async () => {
      await this.#ensureGuard()
      await ensureBase(this.#tool, this.#plan.range, 'needed')
      this.#pins.clear()
      await this.#moveTo(this.#plan, ports)
    })
  }

  async #moveTo(plan: NetworkPlan, ports: readonly GatePort[]): Promise<void> {
    const before = this.#gate
    this.#gate = ports
    try {
      await this.#replace(plan)
    } catch (error) {
      // What a half-made change left is not what the next look expects: it is put back.
      this.#gate = before
      throw error
    }
    // The ports of a gate that ended, or that the plan needs no more, are anybody's again.
    const gone = before.filter((port) => !ports.some((now) => sameGatePort(now, port)))
    await this.#tool.loadSets(
      gone.map(({ proto, gatePort }) => `del ${gateSets[proto]} ${gatePort}`),
    )
  }

  #ensureGuard(): Promise<void> {
    return ensureGuard(this.#system, this.#guard.place, this.#guard.maker)
  }

  pin(pins: readonly Pin[]): Promise<void> {
    return this.#inTurn(async () => {
      // A grant whose ports all go through the gate has nothing to open in the kernel.
      const direct = new Set(this.#plan.pinned.map(({ grant }) => grant))
      const now = this.#system.monotonic()
      const elements = pins
        .filter(({ grant }) => direct.has(grant))
        .map((pin) => this.#pins.remember(pin, this.#plan.uid, this.#round, now))
      await this.#tool.loadSets(printSets([], elements))
    })
  }

  update(plan: NetworkPlan, ports?: readonly GatePort[]): Promise<void> {
    return this.#inTurn(async () => {
      this.#pins.carry(this.#plan, plan)
      await this.#moveTo(plan, ports ?? this.#gate)
    })
  }

  /** New sets beside the old, rules over to them, old sets out: at no point is a rule without its set. */
  async #replace(plan: NetworkPlan): Promise<void> {
    const { uid } = plan
    const round = 1 - this.#round
    const denied = denialSets(uid)
    const sets = grantSets(plan, round)
    const protectedPorts = this.#gate.map(({ proto, gatePort }) => ({
      set: gateSets[proto],
      key: gatePort,
    }))
    await this.#tool.loadSets([
      ...printSets([...denied.sets, ...sets], []),
      // What a dead jail of this uid left in them.
      ...sets.map(({ name }) => `flush ${name}`),
      ...printSets(
        [],
        [
          ...denied.elements,
          ...protectedPorts,
          ...this.#pins.elements(uid, round, this.#system.monotonic()),
        ],
      ),
    ])
    const part: JailPart = { plan, gate: this.#gate, round }
    const listings = await this.#tool.lists()
    for (const family of families)
      await apply(this.#tool, family, jailChanges(family, part, listings[family]))
    this.#plan = plan
    this.#round = round
    mustHold(this.#findProblem(await this.#tool.lists()))
    const { isSet } = jailNames(uid)
    const kept = [...denied.sets, ...sets].map(({ name }) => name)
    const old = (await this.#tool.setNames()).filter((name) => isSet(name) && !kept.includes(name))
    await this.#tool.loadSets(old.map((name) => `destroy ${name}`))
  }

  async denials(): Promise<readonly Decision[]> {
    const { deniedSet, overflowSet } = jailNames(this.#plan.uid)
    const read = async (names: readonly string[]): Promise<ListedElement[]> => {
      const sets = await Promise.all(names.map((name) => this.#tool.set(name)))
      return sets.flatMap((set) => set?.elements ?? [])
    }
    const [denied, overflow] = await Promise.all([
      read(families.map(deniedSet)),
      read(families.map(overflowSet)),
    ])
    return this.#denials.read([...denied, ...overflow])
  }

  intact(): Promise<boolean> {
    return this.#inTurn(() => this.#isIntact())
  }

  async #isIntact(): Promise<boolean> {
    if (!(await isGuardHeld(this.#system, this.#guard.place))) return false
    const [listings, tcp, udp] = await Promise.all([
      this.#tool.lists(),
      this.#tool.set(gateSets.tcp),
      this.#tool.set(gateSets.udp),
    ])
    const held = { tcp, udp }
    const areProtected = this.#gate.every(({ proto, gatePort }) =>
      held[proto]?.elements.some(({ key }) => key === String(gatePort)),
    )
    return areProtected && this.#findProblem(listings) === undefined
  }

  restore(mended: Mended = unlocked): Promise<void> {
    // The lock first: who has it may wait for its turn here.
    return mended(
      () =>
        this.#inTurn(async () => {
          await this.#ensureGuard()
          await ensureBase(this.#tool, this.#plan.range, 'needed')
          await this.#replace(this.#plan)
        }),
      () => Promise.resolve(false),
    )
  }

  async close(): Promise<boolean> {
    await removeJail(this.#system, this.#tool, this.#guard, this.#plan.uid, this.#plan.range)
    return false
  }

  #findProblem(listings: Listings): string | undefined {
    const part: JailPart = { plan: this.#plan, gate: this.#gate, round: this.#round }
    const { range } = this.#plan
    for (const family of families) {
      const problem =
        findBaseProblem(family, range, listings[family], 'needed') ??
        findJailProblem(family, part, listings[family])
      if (problem !== undefined) return problem
    }
    return undefined
  }
}

const sameGatePort = (a: GatePort, b: GatePort): boolean =>
  a.proto === b.proto && a.gatePort === b.gatePort
