/**
 * `isolation: namespace`: a network namespace with nothing in it but `lo`, where every address is local.
 * The nft session that loads its table is also what holds it: when it and the gate's sockets are gone, so is the namespace.
 * Invariant: the table is in and read back before `lo` comes up.
 */
import type { Decision } from '../../audit/record.js'
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'
import type { NetworkHold, NetworkPlan } from '../types.js'
import { DenialReader } from './denials.js'
import { printTable } from './print.js'
import { findDifference } from './readback.js'
import { removalFrom } from './removal.js'
import type { NftSession } from './session.js'
import { namespaceTable } from './namespace-table.js'
import { overflowCounter } from './refusals.js'
import { tableName } from './tables.js'

export interface NamespaceTools {
  readonly perl: string
  readonly nft: string
  readonly ip: string
  readonly unshare: string
  readonly nsenter: string
}

const listTable = `list table inet ${tableName.jail}`

/** `nft` runs in a namespace of its own, which becomes the jail's; whoever opens the gate's sockets in it brings `lo` up, once `installed` has resolved. */
export function openNamespace(system: System, nft: NftSession, plan: NetworkPlan): NetworkHold {
  return new NamespaceHold(system, nft, plan)
}

class NamespaceHold implements NetworkHold {
  readonly netns: string
  readonly installed: Promise<void>
  readonly #system: System
  readonly #nft: NftSession
  readonly #denials = new DenialReader('', overflowCounter)
  #plan: NetworkPlan
  /** What the kernel counted before the last reading of what it refused. */
  #counted: string | undefined

  constructor(system: System, nft: NftSession, plan: NetworkPlan) {
    this.#system = system
    this.#nft = nft
    this.#plan = plan
    this.netns = `/proc/${nft.pid}/ns/net`
    this.installed = this.#load()
    // The caller hears of it where it waits.
    this.installed.catch(() => undefined)
  }

  async #load(): Promise<void> {
    const listing = await this.#nft.change(printTable(namespaceTable(this.#plan)), listTable)
    const difference = findDifference(namespaceTable(this.#plan), listing)
    if (difference !== undefined)
      throw new JailError('VERIFY_FAILED', `the jail's rules are not in force: ${difference}`)
  }

  connectGate(): Promise<void> {
    return Promise.resolve()
  }

  pin(): Promise<void> {
    // The gate dials by name: there is nothing to open in the kernel.
    return Promise.resolve()
  }

  async update(plan: NetworkPlan): Promise<void> {
    const listing = (await this.#swap(plan)) ?? (await this.#replace(plan))
    this.#plan = plan
    const difference = findDifference(namespaceTable(plan), listing)
    if (difference !== undefined)
      throw new JailError('VERIFY_FAILED', `the jail's new rules are not in force: ${difference}`)
  }

  /** Undefined, and nothing changed: what is there is not what was expected. */
  async #swap(plan: NetworkPlan): Promise<unknown> {
    const removal = removalFrom(namespaceTable(this.#plan), 'but denials')
    try {
      return await this.#nft.change([...removal, ...printTable(namespaceTable(plan))], listTable)
    } catch {
      return undefined
    }
  }

  async #replace(plan: NetworkPlan): Promise<unknown> {
    this.#denials.forget()
    const [table = '', ...parts] = printTable(namespaceTable(plan))
    // Added first, so that it may be deleted where it is missing.
    const anew = [table, `delete table inet ${tableName.jail}`, table, ...parts]
    return await this.#nft.change(anew, listTable)
  }

  async denials(isLast = false): Promise<readonly Decision[]> {
    const counted = await this.#count()
    if (!isLast && counted !== undefined && counted === this.#counted) return []
    this.#counted = counted
    return this.#denials.read(await this.#nft.list(listTable))
  }

  /**
   * What the kernel counts of packets in the namespace (proc_pid_net(5)): it counts each before it asks the rules, so that
   * while this stays the same nothing was refused. Undefined: it cannot be told. A jail that does nothing is not asked
   * about twice a second by nft, which takes twenty times as long.
   */
  async #count(): Promise<string | undefined> {
    const [ip, ip6] = await Promise.all(
      ['snmp', 'snmp6'].map((file) =>
        this.#system.readFile(`/proc/${this.#nft.pid}/net/${file}`).catch(() => undefined),
      ),
    )
    return ip === undefined ? undefined : `${ip}${ip6 ?? ''}`
  }

  async intact(): Promise<boolean> {
    return findDifference(namespaceTable(this.#plan), await this.#nft.list(listTable)) === undefined
  }

  async restore(): Promise<void> {
    if (!(await this.intact())) await this.update(this.#plan)
  }

  close(): Promise<boolean> {
    this.#nft.kill()
    return Promise.resolve(true)
  }
}
