/**
 * `agentjail allow NAME HOST[:PORT] [--save]`: one destination more in a running jail.
 */
import { exitCode } from '../../errors.js'
import { allowIn } from '../../learn/amend.js'
import { parseDestination } from '../../learn/destination.js'
import { changeRunning } from '../../learn/running.js'
import { saveGrant } from '../../learn/save.js'
import { callerIdentity } from '../../session/host.js'
import type { CommandIo } from '../io.js'

export interface AllowArgs {
  readonly name: string
  readonly destination: string
  /** Into the policy file too. */
  readonly save: boolean
}

/** Exit 0 when it is open, also where it was before. Throws USAGE, NAME_UNKNOWN, POLICY_INVALID, ... */
export async function allowCommand(args: AllowArgs, io: CommandIo): Promise<number> {
  const destination = parseDestination(args.destination, 'agentjail allow')
  const { entry, why } = await changeRunning(args.name, (policy) => allowIn(policy, destination))
  io.stdout.write(`${entry.name}: ${why}\n`)
  if (!args.save) {
    io.stdout.write('for this run only: --save writes it into the policy\n')
    return exitCode.ok
  }
  const { path, refs, isNew } = await saveGrant(
    {
      jail: entry.name,
      policies: entry.policies,
      cwd: entry.cwd,
      callerUid: callerIdentity().uid,
    },
    destination,
  )
  io.stdout.write(
    isNew || !entry.policies.some((ref) => refs.includes(ref))
      ? `written to ${path}, which extends ${entry.policies.join(', ')}: run with --policy ${path} from now on\n`
      : `written to ${path}\n`,
  )
  return exitCode.ok
}
