/**
 * `agentjail verify`: the battery in a jail, a table for people, and an exit code that means something.
 */
import { findAccount } from '../../account/linux.js'
import { exitCode, JailError } from '../../errors.js'
import { pieces } from '../../launch/types.js'
import type { HardeningPiece } from '../../launch/types.js'
import { compilePlan } from '../../plan/compile.js'
import { parseJailName } from '../../plan/names.js'
import type { Facts } from '../../plan/types.js'
import { loadPolicies } from '../../policy/loader.js'
import type { Isolation } from '../../policy/types.js'
import { collectDead, makeState, openLinuxContext } from '../../session/context.js'
import { elevate } from '../../session/elevate.js'
import { callerIdentity, hostAddresses, hostName, jailGroups } from '../../session/host.js'
import type { Ending } from '../../launch/types.js'
import { failures } from '../../verify/judge.js'
import { probes } from '../../verify/probes.js'
import { renderFindings } from '../../verify/report.js'
import { verify } from '../../verify/verify.js'
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
export const openExit = 1

export async function verifyCommand(args: VerifyArgs, io: CommandIo): Promise<Ending> {
  const without = args.without.map(parsePiece)
  const caller = callerIdentity()
  const policy = await loadPolicies(args.policy, { cwd: process.cwd(), callerUid: caller.uid })
  if (process.getuid?.() !== 0) return await elevate(args.script, args.argv, [])
  const context = await openLinuxContext()
  await collectDead(context)
  const isolation = args.isolation ?? policy.isolation
  await makeState(context, isolation)
  const { system, config } = context
  const jail = parseJailName('verify')
  if (io.stderr.isTTY === true && !args.json) {
    io.stderr.write(`agentjail: trying ${probes.length} ways out of a jail, for some seconds\n`)
  }
  const findings = await verify(context, {
    policy,
    without,
    onNotice: (text) => {
      // The battery runs into limits on purpose.
      if (!text.startsWith('limits.')) io.stderr.write(`agentjail: ${text}\n`)
    },
    makePlan: async (overlaid, command, cwd, protect) => {
      const account = await findAccount(system, config, { jail, callerUid: caller.uid })
      const facts: Facts = {
        platform: system.platform,
        settings: config,
        account,
        resolvers: [],
        hostAddresses: hostAddresses(),
        caller,
        callerEnv: process.env,
        nodePath: process.execPath,
        protect,
        hostName: hostName(),
        groups: jailGroups(),
      }
      const request = { jail, command, cwd, isolation, policies: args.policy }
      return { plan: compilePlan(overlaid, facts, request), facts }
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

function parsePiece(name: string): HardeningPiece {
  const piece = pieces.find((one) => one === name)
  if (piece !== undefined) return piece
  throw new JailError('USAGE', `there is no piece of the hardening named ${JSON.stringify(name)}`, {
    hint: `one of ${pieces.join(', ')}`,
  })
}
