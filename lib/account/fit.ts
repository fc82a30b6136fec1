/**
 * Which account may be a jail's. The same on every system.
 * Invariant: never root, the caller, another jail's own, or a uid that the firewall does not deny.
 */
import { JailError } from '../errors.js'
import { accountComment, accountName } from '../plan/names.js'
import type { JailName } from '../plan/names.js'
import type { Settings } from '../plan/types.js'

export interface AccountRequest {
  readonly jail: JailName
  /** `--user`: an existing account may be used because it was named. */
  readonly user?: string
  readonly callerUid: number
}

/** The name of the account that the jail is to have, whether it exists or not. Throws NAME_INVALID, ACCOUNT. */
export function nameFor({ jail, user }: AccountRequest): string {
  const name = user ?? accountName(jail)
  if (!/^[a-z][a-z0-9-]{0,30}$/.test(name))
    throw new JailError('NAME_INVALID', `${JSON.stringify(name.slice(0, 40))} is not a user name`, {
      hint: 'use a-z, 0-9 and hyphens, a letter first, 31 characters at most',
    })
  const owner = ownerOf(name)
  if (owner !== undefined && owner !== jail)
    // Both jails would be held by the rules of one.
    throw new JailError('ACCOUNT', `user ${name} is the own user of jail ${owner}`, {
      hint: `leave --user away, or run with --name ${owner}`,
    })
  return name
}

/** Throws ACCOUNT. */
export function refuseUnfit(
  { name, uid, comment }: { readonly name: string; readonly uid: number; readonly comment: string },
  { uidRange: { first, last } }: Pick<Settings, 'uidRange'>,
  { jail, user, callerUid }: AccountRequest,
): void {
  const refuse = (why: string, hint: string): never => {
    throw new JailError('ACCOUNT', `user ${name} cannot be a jail's: ${why}`, { hint })
  }
  if (uid === 0) refuse('it is root', 'leave --user away, or name another user')
  if (uid === callerUid)
    refuse('it is the calling user', 'a jail needs a user of its own: leave --user away')
  if (uid < first || uid > last) {
    refuse(
      `its uid ${String(uid)} is outside the reserved range ${String(first)}-${String(last)}, which is what the firewall denies`,
      'leave --user away, or give the user a uid of that range',
    )
  }
  if (user === undefined && comment !== accountComment(jail)) {
    refuse(
      "it exists and is not marked as agentjail's",
      `name it with --user ${name} if it shall be used`,
    )
  }
}

/** The jail whose name gives this account's, as `accountName` has it. */
function ownerOf(account: string): string | undefined {
  const prefix = accountName('' as JailName)
  return account.startsWith(prefix) ? account.slice(prefix.length) : undefined
}
