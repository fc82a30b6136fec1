/**
 * The plan of a battery: as `agentjail run` makes one.
 */
import { compilePlan } from '../plan/compile.js'
import { parseJailName } from '../plan/names.js'
import type { Facts, Plan } from '../plan/types.js'
import type { Isolation, Policy } from '../policy/types.js'
import type { Context } from '../session/context.js'
import { callerIdentity, hostAddresses, hostName, jailGroups } from '../session/host.js'

export interface BatteryPlan {
  readonly policy: Policy
  readonly policies: readonly string[]
  readonly isolation: Isolation
  readonly command: readonly [string, ...string[]]
  readonly cwd: string
  readonly protect: readonly string[]
}

export async function planBattery(
  { system, config, platform }: Context,
  { policy, protect, ...request }: BatteryPlan,
): Promise<{ readonly plan: Plan; readonly facts: Facts }> {
  const jail = parseJailName('verify')
  const caller = callerIdentity()
  const facts: Facts = {
    platform: system.platform,
    settings: config,
    account: await platform.findAccount({ jail, callerUid: caller.uid }),
    resolvers: [],
    hostAddresses: hostAddresses(),
    caller,
    callerEnv: process.env,
    nodePath: process.execPath,
    protect,
    hostName: hostName(),
    groups: jailGroups(),
  }
  return { plan: compilePlan(policy, facts, { jail, ...request }), facts }
}
