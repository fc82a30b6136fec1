/**
 * What a jail needs of a Mac before its network is opened: static deny, users, nobody of its uid. Under the lock.
 * Invariant: the deny is in force before a user of the reserved range is made.
 */
import { ensureMacAccount, ensureMacGateUser, findMacAccount } from '../../account/macos.js'
import { accountName } from '../../plan/names.js'
import type { Facts, Plan } from '../../plan/types.js'
import { refuseShared } from '../processes.js'
import { withAccount } from '../replan.js'
import type { MacParts } from './parts.js'

/** The plan for the account as it is, or is to be, now: another start may have taken the uid since the facts were looked up. */
export async function chooseMacAccount(
  { system, settings }: MacParts,
  plan: Plan,
  { caller }: Facts,
): Promise<Plan> {
  const { jail, account } = plan
  const user = account.name === accountName(jail) ? {} : { user: account.name }
  const found = await findMacAccount(system, settings, { jail, callerUid: caller.uid, ...user })
  return withAccount(plan, found)
}

/** Gives the gate's user. */
export async function prepareMac(
  { system, settings, backend }: MacParts,
  { account, jail }: Plan,
  onNotice: (text: string) => void,
): Promise<{ readonly uid: number; readonly gid: number }> {
  await backend.ensureStaticDeny(settings.uidRange)
  const gateUser = await ensureMacGateUser(system, settings)
  await ensureMacAccount(system, settings, account, jail, onNotice)
  await refuseShared(system, account)
  return gateUser
}
