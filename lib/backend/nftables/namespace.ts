/**
 * `isolation: namespace`: a network namespace with nothing in it but `lo`, where every address is local.
 * The nft session that loads its table is also what holds it: when it and the gate's sockets are gone, so is the namespace.
 * Invariant: the table is in and read back before `lo` comes up.
 */
import type { Decision } from '../../audit/record.js'
import { JailError } from '../../errors.js'
import type { Argv, System } from '../../system/types.js'
import type { NetworkHold, NetworkPlan } from '../types.js'
import { DenialReader } from './denials.js'
import { printTable } from './print.js'
import { findDifference } from './readback.js'
import { openNft } from './session.js'
import type { NftSession } from './session.js'
import { namespaceTable, overflowCounter, tableName } from './tables.js'

export interface NamespaceTools {
  readonly nft: string
  readonly ip: string
  readonly unshare: string
  readonly nsenter: string
}

/** What makes every address local, as `ip -batch` reads it. */
export function loopbackRoutes(): string[] {
  // Metric and table `local` are the kernel's defaults for the type.
  return ['link set lo up', 'route add local 0.0.0.0/0 dev lo', 'route add local ::/0 dev lo']
}

const listTable = `list table inet ${tableName.jail}`

/** Makes the namespace; resolves once its rules are read back and `lo` is up. */
export async function openNamespace(
  system: System,
  tools: NamespaceTools,
  plan: NetworkPlan,
): Promise<NetworkHold> {
  const nft = openNft(system, [tools.unshare, '--net', '--', tools.nft, '-j', '-i'])
  try {
    const hold = new NamespaceHold(nft, plan)
    await hold.load()
    await bringUp(system, tools, nft.pid)
    return hold
  } catch (error) {
    nft.kill()
    throw error
  }
}

async function bringUp(system: System, tools: NamespaceTools, pid: number): Promise<void> {
  const argv: Argv = [tools.nsenter, `--net=/proc/${pid}/ns/net`, '--', tools.ip, '-batch', '-']
  const result = await system.run(argv, { input: `${loopbackRoutes().join('\n')}\n` })
  if (result.code !== 0) {
    throw new JailError('BACKEND', `cannot set up the jail's loopback: ${result.stderr.trim()}`)
  }
}

class NamespaceHold implements NetworkHold {
  readonly netns: string
  readonly #nft: NftSession
  readonly #denials = new DenialReader('', overflowCounter)
  #plan: NetworkPlan

  constructor(nft: NftSession, plan: NetworkPlan) {
    this.#nft = nft
    this.#plan = plan
    this.netns = `/proc/${nft.pid}/ns/net`
  }

  async load(): Promise<void> {
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
    const listing = await this.#nft.change(
      [`delete table inet ${tableName.jail}`, ...printTable(namespaceTable(plan))],
      listTable,
    )
    this.#plan = plan
    const difference = findDifference(namespaceTable(plan), listing)
    if (difference !== undefined)
      throw new JailError('VERIFY_FAILED', `the jail's new rules are not in force: ${difference}`)
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

  async close(): Promise<void> {
    this.#nft.kill()
    return Promise.resolve()
  }
}
