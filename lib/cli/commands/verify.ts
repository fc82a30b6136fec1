/**
 * `agentjail verify`: the battery in a jail, a table for people, and an exit code that means something.
 */
import { exitCode, JailError } from '../../errors.js'
import type { Ending } from '../../launch/types.js'
import { loadPolicies } from '../../policy/loader.js'
import type { Isolation } from '../../policy/types.js'
import { openBattery } from '../../session/context.js'
import { elevate } from '../../session/elevate.js'
import { callerIdentity } from '../../session/host.js'
import { failures } from '../../verify/judge.js'
import { renderFindings } from '../../verify/report.js'
import type { CommandIo } from '../io.js'

export interface VerifyArgs {
  readonly policy: readonly string[]
  readonly isolation?: Isolation | undefined
  readonly json: boolean
  readonly without: readonly string[]
  readonly argv: readonly string[]
  readonly script: string
}

/** Exit codes beside agentjail's own: something is open beyond what is documented. */
const openExit = 1

export async function verifyCommand(args: VerifyArgs, io: CommandIo): Promise<Ending> {
  const battery = await openBattery()
  refuseUnknown(args.without, battery.pieces)
  const { uid: callerUid } = callerIdentity()
  const policy = await loadPolicies(args.policy, { cwd: process.cwd(), callerUid })
  if (process.getuid?.() !== 0) return await elevate(args.script, args.argv, [])
  if (io.stderr.isTTY === true && !args.json) {
    io.stderr.write(`agentjail: trying ${battery.size} ways out of a jail, for some seconds\n`)
  }
  const { isolation, findings } = await battery.run({
    policy,
    policies: args.policy,
    isolation: args.isolation,
    without: args.without,
    onNotice: (text) => {
      // The battery runs into limits on purpose.
      if (!text.startsWith('limits.')) io.stderr.write(`agentjail: ${text}\n`)
    },
  })
  const bad = failures(findings)
  if (args.json) {
    const report = { v: 1, policy: policy.name, isolation, held: bad.length === 0, findings }
    io.stdout.write(`${JSON.stringify(report, null, 2)}\n`)
  } else {
    const colour = io.stdout.isTTY === true && (io.env['NO_COLOR'] ?? '') === ''
    io.stdout.write(renderFindings(findings, { policy: policy.name, isolation, colour }))
  }
  return { code: bad.length === 0 ? exitCode.ok : openExit }
}

/** Throws USAGE. */
function refuseUnknown(names: readonly string[], pieces: readonly string[]): void {
  const name = names.find((each) => !pieces.includes(each))
  if (name === undefined) return
  throw new JailError('USAGE', `there is no piece of the hardening named ${JSON.stringify(name)}`, {
    hint: `one of ${pieces.join(', ')}`,
  })
}
