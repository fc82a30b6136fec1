/**
 * `isolation: namespace`: a network namespace with nothing in it but `lo`, where every address is local.
 * A small perl that waits on its standard input holds it: when it and the gate's sockets are gone, so is the namespace.
 * Invariant: the rules of both families are in and read back before `lo` comes up.
 */
import type { Decision } from '../../audit/record.js'
import { JailError } from '../../errors.js'
import type { Session, System } from '../../system/types.js'
import { loopbackSetUp } from '../namespace-addresses.js'
import type { NetworkHold, NetworkPlan } from '../types.js'
import { printSets, printTables } from './ast.js'
import { DenialReader } from './denials.js'
import { findDifference } from './readback.js'
import { denialSets, families, jailNames, namespaceTables } from './tables.js'
import { Tool } from './tool.js'
import type { IptablesTools } from './tool.js'

/** Says that it is there, and ends with whoever holds the other end of its standard input. */
const holdScript = '$| = 1; print "held\\n"; 1 while sysread STDIN, my $byte, 4096'
const startTimeout = 5_000

/** Makes the namespace; resolves once its rules are read back and `lo` is up. */
export async function openNamespace(
  system: System,
  tools: IptablesTools,
  plan: NetworkPlan,
): Promise<NetworkHold> {
  const holder = system.open([tools.unshare, '--net', '--', tools.perl, '-e', holdScript])
  try {
    await started(holder)
    const netns = `/proc/${holder.pid}/ns/net`
    const hold = new NamespaceHold(holder, new Tool(system, tools, netns), netns, plan)
    await hold.load(plan)
    return hold
  } catch (error) {
    holder.kill()
    throw error
  }
}

function started(holder: Session): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (): void => {
      clearTimeout(timer)
      reject(new JailError('BACKEND', `cannot make a network namespace: ${said.trim()}`))
    }
    let said = ''
    const timer = setTimeout(fail, startTimeout)
    holder.onErrorText((text) => {
      said += text
    })
    holder.onExit(fail)
    holder.onLine((line) => {
      if (line !== 'held') return
      clearTimeout(timer)
      resolve()
    })
  })
}

class NamespaceHold implements NetworkHold {
  readonly netns: string
  /** `openNamespace` has waited for it. */
  readonly installed = Promise.resolve()
  readonly #holder: Session
  readonly #tool: Tool
  readonly #denials: DenialReader
  #plan: NetworkPlan
  #isUp = false

  constructor(holder: Session, tool: Tool, netns: string, plan: NetworkPlan) {
    this.#holder = holder
    this.#tool = tool
    this.netns = netns
    this.#plan = plan
    const names = jailNames(plan.uid)
    this.#denials = new DenialReader(families.map((family) => names.overflowSet(family)))
  }

  async load(plan: NetworkPlan): Promise<void> {
    const denied = denialSets(plan.uid)
    await this.#tool.loadSets(printSets(denied.sets, denied.elements))
    await Promise.all(
      families.map((family) =>
        this.#tool.load(family, printTables(family, namespaceTables(family, plan))),
      ),
    )
    this.#plan = plan
    const problem = await this.#findProblem()
    if (problem !== undefined)
      throw new JailError('VERIFY_FAILED', `the jail's rules are not in force: ${problem}`)
    if (!this.#isUp) await this.#tool.ip(loopbackSetUp())
    this.#isUp = true
  }

  connectGate(): Promise<void> {
    return Promise.resolve()
  }

  pin(): Promise<void> {
    // The gate dials by name: there is nothing to open in the kernel.
    return Promise.resolve()
  }

  update(plan: NetworkPlan): Promise<void> {
    return this.load(plan)
  }

  async denials(): Promise<readonly Decision[]> {
    const names = jailNames(this.#plan.uid)
    const sets = await Promise.all(
      families.flatMap((family) => [
        this.#tool.set(names.deniedSet(family)),
        this.#tool.set(names.overflowSet(family)),
      ]),
    )
    return this.#denials.read(sets.flatMap((set) => set?.elements ?? []))
  }

  async intact(): Promise<boolean> {
    return (await this.#findProblem()) === undefined
  }

  async restore(): Promise<void> {
    if (!(await this.intact())) await this.load(this.#plan)
  }

  close(): Promise<boolean> {
    this.#holder.kill()
    return Promise.resolve(true)
  }

  async #findProblem(): Promise<string | undefined> {
    const listings = await this.#tool.lists()
    return families
      .map((family) =>
        findDifference(family, namespaceTables(family, this.#plan), listings[family]),
      )
      .find((problem) => problem !== undefined)
  }
}
