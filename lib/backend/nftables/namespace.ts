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
import { openNft } from './session.js'
import type { NftSession } from './session.js'
import { namespaceTable, overflowCounter, tableName } from './tables.js'

export interface NamespaceTools {
  readonly perl: string
  readonly nft: string
  readonly ip: string
  readonly unshare: string
  readonly nsenter: string
}

const listTable = `list table inet ${tableName.jail}`

/** Makes the namespace; whoever opens the gate's sockets in it brings `lo` up, once `installed` has resolved. */
export function openNamespace(
  system: System,
  tools: NamespaceTools,
  plan: NetworkPlan,
): NetworkHold {
  const nft = openNft(system, [tools.unshare, '--net', '--', tools.nft, '-j', '-i'])
  return new NamespaceHold(nft, plan)
}

class NamespaceHold implements NetworkHold {
  readonly netns: string
  readonly installed: Promise<void>
  readonly #nft: NftSession
  readonly #denials = new DenialReader('', overflowCounter)
  #plan: NetworkPlan

  constructor(nft: NftSession, plan: NetworkPlan) {
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

  async denials(): Promise<readonly Decision[]> {
    return this.#denials.read(await this.#nft.list(listTable))
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
