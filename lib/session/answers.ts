/**
 * What a jail answers to other agentjail commands.
 * Invariant: changes of the policy go one at a time, each to the policy that the one before left in force.
 */
import { JailError } from '../errors.js'
import { policyFromJson, policyToJson } from '../policy/json.js'
import type { Plan } from '../plan/types.js'
import type { JailStatus } from '../status/status.js'
import type { ControlRequest } from './control.js'
import { shownCommand } from './claim.js'
import type { HeldCommand } from './held-command.js'
import type { Ledger } from './ledger.js'

/** A session, as far as it is asked about. */
export interface Answerable {
  readonly command: HeldCommand
  readonly ledger: Ledger
  /** What is in force. */
  readonly plan: () => Plan
  /** Milliseconds since the epoch. */
  readonly since: () => number
  /** As the gate counts them. */
  readonly pins: () => number | Promise<number>
  /** What the user was told while it ran. */
  readonly notices: () => readonly string[]
  /** Gives the number of connections cut. */
  readonly reload: (policy: Plan['policy']) => Promise<{ readonly cut: number }>
  /** How to launch a further command in it. */
  readonly join: () => unknown
}

export class Answers {
  readonly #session: Answerable
  #changes: Promise<unknown> = Promise.resolve()

  constructor(session: Answerable) {
    this.#session = session
  }

  /** Settles when no change of the policy is under way. */
  get settled(): Promise<unknown> {
    return this.#changes
  }

  async answer(request: ControlRequest): Promise<unknown> {
    const { plan, command } = this.#session
    switch (request.op) {
      case 'status':
        return await this.#status()
      case 'policy':
        return policyToJson(plan().policy)
      case 'reload': {
        const change = this.#changes.then(() => this.#change(request))
        this.#changes = change.catch(() => undefined)
        return await change
      }
      case 'join':
        return this.#session.join()
      case 'stop':
        command.stop()
        return {}
    }
  }

  async #change({ policy, base }: Extract<ControlRequest, { op: 'reload' }>): Promise<unknown> {
    const { plan, command, reload } = this.#session
    command.live()
    if (base !== undefined && base !== policyToJson(plan().policy))
      throw new JailError('STATE', 'the policy was changed meanwhile', { hint: 'try again' })
    const next = policyFromJson(policy)
    if (next === undefined)
      throw new JailError(
        'POLICY_INVALID',
        'the policy was written by another version of agentjail',
      )
    return await reload(next)
  }

  async #status(): Promise<JailStatus> {
    const { plan, command, ledger, since, pins, notices } = this.#session
    const { jail, policy, account, isolation } = plan()
    const pid = command.running?.commandPid
    return {
      name: jail,
      policy: policy.name,
      user: account.name,
      uid: account.uid,
      ...(pid === undefined ? {} : { pid }),
      isolation,
      phase: command.phase,
      since: since(),
      command: shownCommand(plan()),
      ...ledger.tally,
      pins: await pins(),
      warnings: notices(),
    }
  }
}
