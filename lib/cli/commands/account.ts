/**
 * `agentjail account list|remove`.
 */
import { exitCode, JailError } from '../../errors.js'
import { accountName, jailOf, parseJailName } from '../../plan/names.js'
import { withoutJail } from '../../session/claim.js'
import { collectDead, makeState, openContext } from '../../session/context.js'
import { withLock } from '../../session/lock.js'
import type { CommandIo } from '../io.js'

export interface AccountArgs {
  readonly action: 'list' | 'remove'
  readonly jail: string | undefined
  readonly json: boolean
}

export async function accountCommand(
  { action, jail, json }: AccountArgs,
  io: CommandIo,
): Promise<number> {
  const context = await openContext()
  await makeState(context)
  await collectDead(context)
  const accounts = await context.platform.listAccounts()
  if (action === 'list') {
    const rows = accounts.map(({ name, uid, home, comment }) => ({
      name,
      uid,
      home,
      jail: jailOf(comment),
    }))
    const lines = rows.map(
      (row) => `${row.jail.padEnd(26)} ${row.name.padEnd(29)} ${row.uid} ${row.home}\n`,
    )
    io.stdout.write(json ? `${JSON.stringify(rows)}\n` : lines.join(''))
    return exitCode.ok
  }
  if (jail === undefined)
    throw new JailError('USAGE', 'no jail named', { hint: 'agentjail account remove NAME' })
  const name = accountName(parseJailName(jail))
  const entry = accounts.find((one) => one.name === name)
  if (entry === undefined) {
    throw new JailError('NAME_UNKNOWN', `jail ${jail} has no account of agentjail's`, {
      hint: 'see: agentjail account list',
    })
  }
  await withLock(context, () =>
    withoutJail(context, ['agentjail', 'account', 'remove', jail], entry, () =>
      context.platform.removeAccount(entry),
    ),
  )
  io.stdout.write(`removed ${name} and its home\n`)
  return exitCode.ok
}
