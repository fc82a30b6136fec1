/**
 * Plans made of plans: for a new policy of a running jail, for an account chosen after the facts. Pure.
 * Invariant: command, account, uid and keys stay as the jail was started with.
 */
import { JailError } from '../errors.js'
import type { GatePolicy } from '../gate/protocol.js'
import { compilePlan, wantsCa } from '../plan/compile.js'
import type { Facts, Plan } from '../plan/types.js'
import { fillSlots } from '../policy/slots.js'

/** `gate`: what the gate enforces now, with the keys that were read at the start. Throws POLICY_INVALID. */
export function replan(before: Plan, gate: GatePolicy, policy: Plan['policy'], facts: Facts): Plan {
  const known = gate.credentials.filter(({ id }) => policy.credentials.has(id))
  const filled = fillSlots(policy, new Set(known.map(({ id }) => id)))
  const [missing] = filled.missing
  if (missing !== undefined) {
    throw new JailError(
      'POLICY_INVALID',
      `the credential ${missing.id} is new to the running jail`,
      { hint: 'end the jail and run it again: keys are read at a start' },
    )
  }
  const { jail, isolation, policies, account } = before
  const { command, cwd } = before.launch
  const request = { jail, command, cwd, isolation, policies }
  const plan = compilePlan(filled.policy, facts, request, known)
  refuseNewCa(gate, plan.gate)
  // The account may have been chosen after the facts.
  const network = { ...plan.network, uid: before.network.uid }
  return { ...plan, network, account, launch: before.launch }
}

/** A command that runs already cannot be made to trust a new CA. */
function refuseNewCa(before: GatePolicy, after: GatePolicy): void {
  if (!wantsCa(after) || wantsCa(before)) return
  throw new JailError(
    'POLICY_INVALID',
    'the new policy needs inspect: http, for which the command must trust a certificate from its start; the old one stays in force',
    { hint: 'end the jail and run it again' },
  )
}

/** The same plan for an account whose uid was chosen only now. */
export function withAccount(plan: Plan, account: Plan['account']): Plan {
  return {
    ...plan,
    account,
    network: { ...plan.network, uid: account.uid },
    // `verify` may launch under another user on purpose.
    ...(plan.launch.user.uid === plan.account.uid
      ? { launch: { ...plan.launch, user: account } }
      : {}),
  }
}
