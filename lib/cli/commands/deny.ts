/**
 * `agentjail deny NAME HOST[:PORT]`: one destination less in a running jail; its connections are cut.
 */
import { exitCode } from '../../errors.js'
import { denyIn } from '../../learn/amend.js'
import { parseDestination } from '../../learn/destination.js'
import { changeRunning } from '../../learn/running.js'
import type { CommandIo } from '../io.js'

export interface DenyArgs {
  readonly name: string
  readonly destination: string
}

/** Exit 0 when it is closed, also where it was before. Throws USAGE, NAME_UNKNOWN, ... */
export async function denyCommand(args: DenyArgs, io: CommandIo): Promise<number> {
  const destination = parseDestination(args.destination, 'agentjail deny')
  const { entry, changed, why, cut } = await changeRunning(args.name, (policy) =>
    denyIn(policy, destination),
  )
  io.stdout.write(`${entry.name}: ${why}${changed ? `; ${String(cut)} connections cut` : ''}\n`)
  if (changed) io.stdout.write('for this run only: the policy file is as it was\n')
  return exitCode.ok
}
