/**
 * What a jail needs of a Linux machine before its network is opened: static deny, users, nobody of its uid.
 * Invariant: an account that is there is only looked at; a new one is chosen, claimed and made under the lock.
 */
import { ensureAccount, ensureGateUser, findAccount } from '../account/linux.js'
import type { Locked } from '../backend/types.js'
import type { Facts, Plan } from '../plan/types.js'
import { accountName } from '../plan/names.js'
import type { LinuxContext } from './context.js'
import { refuseShared } from './processes.js'
import { withAccount } from './replan.js'

export interface Prepared {
  /** For the account as it really is. */
  readonly plan: Plan
  readonly gateUser: { readonly uid: number; readonly gid: number }
  /** Settles when the static deny is in force and read back; `locked` as of `Backend.ensureStaticDeny`. */
  readonly deny: (locked?: Locked) => Promise<void>
}

/** Shared things: looked at always, changed only where something is missing. A new account is made only where it is denied. */
export async function prepareMachine(context: LinuxContext, plan: Plan): Promise<Prepared> {
  const { system, config, tools, backend } = context
  const { account, jail } = plan
  const deny = (locked?: Locked): Promise<void> => backend.ensureStaticDeny(config.uidRange, locked)
  if (!account.exists) await deny()
  const gateUser = await ensureGateUser(system, config, tools)
  const real = await ensureAccount(system, config, tools, account, jail)
  await refuseShared(system, account)
  return { plan: withAccount(plan, real), gateUser, deny }
}

/** The plan for an account that does not exist yet, chosen now. Call it under the lock. */
export async function chooseAccount(
  { system, config }: LinuxContext,
  plan: Plan,
  facts: Facts,
): Promise<Plan> {
  const { jail, account } = plan
  const found = await findAccount(system, config, {
    jail,
    callerUid: facts.caller.uid,
    ...(account.name === accountName(jail) ? {} : { user: account.name }),
  })
  return withAccount(plan, found)
}
