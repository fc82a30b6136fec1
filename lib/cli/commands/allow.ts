/**
 * `agentjail allow NAME|FILE HOST[:PORT]... [--save]`: destinations more in a running jail, or in a policy file.
 */
import { exitCode, JailError } from '../../errors.js'
import { allowIn } from '../../learn/amend.js'
import { type Destination, parseDestination } from '../../learn/destination.js'
import { changeRunning } from '../../learn/running.js'
import { addToFile, saveGrant } from '../../learn/save.js'
import { isPath } from '../../policy/ref.js'
import { callerIdentity } from '../../session/host.js'
import type { CommandIo } from '../io.js'

export interface AllowArgs {
  /** Of a running jail; or the path of a policy file. */
  readonly name: string
  readonly destinations: readonly string[]
  /** Into the policy file too. */
  readonly save: boolean
}

/** Exit 0 when all is open, also what was before. Throws USAGE, NAME_UNKNOWN, POLICY_INVALID, ... */
export async function allowCommand(args: AllowArgs, io: CommandIo): Promise<number> {
  if (args.destinations.length === 0) {
    throw new JailError('USAGE', 'agentjail allow needs a destination', {
      hint: `for example: agentjail allow ${args.name} api.example.com`,
    })
  }
  // All are judged before the first is opened.
  const destinations = args.destinations.map((text) => parseDestination(text, 'agentjail allow'))
  for (const destination of destinations) {
    if (isPath(args.name)) await allowInFile(args.name, destination, io)
    else await allowInJail(args, destination, io)
  }
  if (!isPath(args.name) && !args.save) {
    io.stdout.write('for this run only: --save writes it into the policy\n')
  }
  return exitCode.ok
}

async function allowInFile(path: string, destination: Destination, io: CommandIo): Promise<void> {
  const isNew = await addToFile(path, destination, callerIdentity().uid)
  const text = isNew ? 'allowed from the next run or reload on' : 'was allowed already'
  io.stdout.write(`${path}: ${destination.text} ${text}\n`)
}

async function allowInJail(
  { name, save }: AllowArgs,
  destination: Destination,
  io: CommandIo,
): Promise<void> {
  const { entry, why } = await changeRunning(name, (policy) => allowIn(policy, destination))
  io.stdout.write(`${entry.name}: ${why}\n`)
  if (!save) return
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
}
