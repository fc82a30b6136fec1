/**
 * A jail's audit log, opened for its session: what cannot be written is told.
 */
import { openAuditLog } from '../audit/log.js'
import type { AuditLog } from '../audit/log.js'
import type { Plan, Settings } from '../plan/types.js'

/** Throws STATE where the place is not safe. */
export function openJailLog(
  { logDir }: Pick<Settings, 'logDir'>,
  { jail, account }: Pick<Plan, 'jail' | 'account'>,
  onNotice: (text: string) => void,
): Promise<AuditLog> {
  return openAuditLog({
    dir: logDir,
    jail,
    uid: account.uid,
    onTrouble: (message) => {
      if (message !== undefined) onNotice(`the audit log cannot be written: ${message}`)
    },
  })
}
