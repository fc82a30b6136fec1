/**
 * `agentjail setup`: makes this machine ready, step by step, each told and each idempotent.
 */
import { JailError } from '../../errors.js'
import { openSetup } from '../../session/context.js'
import type { SetupStep } from '../../setup/setup.js'
import type { CommandIo } from '../io.js'

export interface SetupArgs {
  /** Say what would be done, and do nothing; needs no privilege. */
  readonly print: boolean
}

/** Exit 0: all is ready (or printed). Throws `JailError`: NOT_ROOT, TOOL_MISSING, STATE, ... */
export async function setupCommand(args: SetupArgs, io: CommandIo): Promise<number> {
  const steps = await openSetup()
  if (args.print) {
    for (const step of steps) await printStep(step, io)
    return 0
  }
  if (process.geteuid?.() !== 0) {
    throw new JailError('NOT_ROOT', 'setup changes the system and needs root', {
      hint: 'sudo agentjail setup; or see what it would do: agentjail setup --print',
    })
  }
  for (const step of steps) {
    const wasDone = await step.isDone()
    if (!wasDone && step.byHand !== undefined) {
      io.stdout.write(`by hand    ${step.title}: ${step.byHand}\n`)
      continue
    }
    if (!wasDone) await step.apply()
    io.stdout.write(`${wasDone ? 'was ready' : 'done     '}  ${step.title}\n`)
  }
  io.stdout.write('agentjail is ready: agentjail run --policy openai -- COMMAND\n')
  return 0
}

async function printStep(step: SetupStep, io: CommandIo): Promise<void> {
  // Rules and accounts can only be read by root; what can't be told is printed as still to be done.
  const isDone = await step.isDone().catch(() => false)
  io.stdout.write(`# ${step.title}: ${step.why}${isDone ? ' (is there)' : ''}\n`)
  if (!isDone) for (const line of step.lines) io.stdout.write(`${line}\n`)
}
