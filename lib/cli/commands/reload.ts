/**
 * `agentjail reload NAME`: reads the policy here, with all its mistakes told, and hands it to the warden whole.
 */
import { exitCode } from '../../errors.js'
import { parseJailName } from '../../plan/names.js'
import { policyToJson } from '../../policy/json.js'
import { loadPolicies } from '../../policy/loader.js'
import { openContext } from '../../session/context.js'
import { askWarden } from '../../session/control.js'
import { callerIdentity } from '../../session/host.js'
import { reachJail } from '../../session/reach.js'
import type { CommandIo } from '../io.js'

export interface ReloadArgs {
  readonly name: string
  readonly policy: readonly string[] | undefined
}

/** Exit 0 when it is in force. Throws NAME_UNKNOWN, POLICY_INVALID (the old policy stays in force), ... */
export async function reloadCommand({ name, policy }: ReloadArgs, io: CommandIo): Promise<number> {
  const jail = parseJailName(name)
  const { entry, path } = await reachJail(await openContext(), jail)
  const refs = policy ?? entry.policies
  const next = await loadPolicies(refs, { cwd: entry.cwd, callerUid: callerIdentity().uid })
  const result = await askWarden(path, jail, { op: 'reload', policy: policyToJson(next) })
  const cut =
    typeof result === 'object' && result !== null && 'cut' in result ? String(result.cut) : '0'
  io.stdout.write(`${jail}: the new policy is in force; ${cut} connections cut\n`)
  return exitCode.ok
}
