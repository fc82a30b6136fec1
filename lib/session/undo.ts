/**
 * What a session did, to be undone in reverse.
 * Invariant: every step is tried whatever fails before it; rules stay while a process of the uid lives, and the
 * registry's entry stays while it leads a later collection to something.
 */
import { errorMessage } from '../errors.js'

/**
 * What failing leaves. `processes`: something that must stay denied. `rules` and `owed`: something that
 * `agentjail gc` clears later. `entry`: the registry's word of it. `nothing`: nothing that lasts.
 */
export type Leaves = 'processes' | 'rules' | 'owed' | 'entry' | 'nothing'

interface Step {
  readonly what: string
  readonly leaves: Leaves
  readonly run: () => Promise<unknown>
}

export class Undo {
  readonly #steps: Step[] = []
  readonly #onNotice: (text: string) => void

  /** `onNotice` is told what could not be undone, one line each. */
  constructor(onNotice: (text: string) => void) {
    this.#onNotice = onNotice
  }

  /** `what` completes "could not ...". */
  push(what: string, leaves: Leaves, run: () => Promise<unknown>): void {
    this.#steps.push({ what, leaves, run })
  }

  /** Never throws; what failed is told, stays denied, and stays in the registry for a later collection. */
  async all(): Promise<void> {
    let processesLeft = false
    let isOwed = false
    for (const { what, leaves, run } of this.#steps.splice(0).reverse()) {
      if (leaves === 'rules' && processesLeft) continue
      if (leaves === 'entry' && isOwed) continue
      try {
        await run()
      } catch (error) {
        processesLeft ||= leaves === 'processes'
        isOwed ||= leaves === 'processes' || leaves === 'rules' || leaves === 'owed'
        const rest = isOwed ? '; the user stays denied, and agentjail gc clears it later' : ''
        this.#onNotice(`could not ${what}: ${errorMessage(error)}${rest}`)
      }
    }
  }
}
