/**
 * One run of the battery: a jail started as `agentjail run` starts one, with targets around it.
 * Invariant: the plan differs from that of `run` only in what is listed in `overlay`, and in `without`.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readlinkSync } from 'node:fs'
import { networkPlan } from '../plan/network.js'
import { gatePolicy } from '../plan/compile.js'
import type { Facts, Plan } from '../plan/types.js'
import type { HardeningPiece } from '../launch/types.js'
import type { Isolation, Policy } from '../policy/types.js'
import { endProcesses } from '../session/processes.js'
import type { LinuxContext } from '../session/context.js'
import { relaySignals } from '../session/signals.js'
import { Warden } from '../session/warden.js'
import { judge } from './judge.js'
import type { Means } from './probes.js'
import { defaultLimits, names, overlay } from './overlay.js'
import { planBattery } from './plan.js'
import { linesOf, lives, openResults } from './results.js'
import { openStage, type Stage } from './stage.js'
import type { Finding, InsideConfig } from './types.js'

export interface VerifyRequest {
  readonly policy: Policy
  readonly policies: readonly string[]
  readonly isolation: Isolation
  readonly without: readonly HardeningPiece[]
  readonly onNotice: (text: string) => void
}

export async function verify(context: LinuxContext, request: VerifyRequest): Promise<Finding[]> {
  const { system, tools } = context
  const nonce = randomBytes(8).toString('hex')
  const stage = await openStage({ system, ...tools }, nonce, names)
  try {
    const policy = overlay(request.policy, {
      address: stage.wire.target4,
      ports: [{ first: 443, last: 443 }],
      isNameless: request.without.includes('gate-names'),
    })
    const { plan, facts } = await planBattery(context, {
      ...request,
      policy,
      command: inside(tools.perl),
      cwd: stage.files.workspace,
      protect: [stage.files.package],
    })
    return await runIn(context, stage, weaken(plan, facts, request.without), facts, nonce, request)
  } finally {
    await stage.close()
  }
}

/** The first program sees which descriptors it was given; Node would hide them. */
function inside(perl: string): [string, ...string[]] {
  const look = `opendir my $d, '/proc/self/fd'; my @extra;
    for (grep { /^\\d+$/ && $_ > 2 } readdir $d) { my $to = readlink "/proc/self/fd/$_"; push @extra, "$_ $to" unless !defined $to || $to =~ m{^/proc/\\d+/fd$} }
    $ENV{AGENTJAIL_VERIFY_FDS} = join ', ', @extra; exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\\n"`
  return [perl, '-e', look, process.execPath, '--input-type=module', '-']
}

/** Leaves out what `launch` does not know of: the network, and the names at the gate (see `overlay`). */
function weaken(plan: Plan, facts: Facts, without: readonly HardeningPiece[]): Plan {
  const network = networkPlan(plan.policy, {
    jail: plan.jail,
    uid: plan.account.uid,
    range: facts.settings.uidRange,
    isolation: plan.isolation,
    groups: facts.groups,
  })
  // A uid outside the reserved range, which no rule knows and no account has.
  const uid = facts.settings.uidRange.last + 1
  const user = without.includes('network') ? { ...plan.launch.user, uid, gid: uid } : plan.account
  return {
    ...plan,
    network,
    gate: gatePolicy(plan.policy, []),
    launch: { ...plan.launch, user, without },
  }
}

async function runIn(
  context: LinuxContext,
  stage: Stage,
  plan: Plan,
  facts: Facts,
  nonce: string,
  request: VerifyRequest,
): Promise<Finding[]> {
  const { system, config } = context
  const config_: InsideConfig = {
    nonce,
    ...names,
    target4: stage.wire.target4,
    target6: stage.wire.target6,
    host4: stage.wire.host4,
    device: stage.device,
    hostPort: stage.hostPort,
    inboundPort: stage.inboundPort,
    abstractName: stage.abstractName,
    socketPath: stage.socketPath,
    messageKey: stage.messageKey,
    hostNetns: readlinkSync('/proc/self/ns/net'),
    tmpMarker: stage.files.tmpMarker,
    tmpBytes: plan.policy.limits.tmp ?? defaultLimits.tmp,
    pids: plan.policy.limits.pids ?? defaultLimits.pids,
    metadata: stage.metadata,
    canary: stage.files.canary,
    workspace: stage.files.workspace,
  }
  const results = openResults('verify-inside', `${config.stateDir}/verify-${nonce}`)
  const { input, output } = results
  const env = new Map([...plan.launch.env, ['AGENTJAIL_VERIFY', JSON.stringify(config_)]])
  const stray = openSync(stage.files.canary, 'r')
  const spec = { ...plan.launch, env, stdio: { input, output, stray } }
  const groups = process.getgroups?.() ?? []
  // The caller is in a group that the command must not be in.
  process.setgroups?.([...groups, config.uidRange.last + 2])
  const events = {
    onDecisions: () => undefined,
    onPolicy: () => undefined,
    onNotice: request.onNotice,
  }
  try {
    const warden = new Warden(context, { ...plan, launch: spec }, facts, events, undefined)
    await warden.run(relaySignals())
    const leftover = await lives(system, spec.user.uid, output)
    await endProcesses(system, spec.user.uid)
    const seen = { ...(await stage.witness()), leftover }
    return judge(linesOf(output), seen, plan.isolation, await presentMeans(context, plan))
  } finally {
    process.setgroups?.(groups)
    closeSync(stray)
    results.close()
  }
}

async function presentMeans(context: LinuxContext, plan: Plan): Promise<ReadonlySet<Means>> {
  const { system, tools, backend } = context
  // landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION: scopes since the sixth.
  const asked = await system.run([tools.perl, '-e', 'print syscall 444, 0, 0, 1'])
  return new Set<Means>([
    ...(Number(asked.stdout) >= 6 ? (['abstract-socket'] as const) : []),
    ...(backend.name === 'nftables' && plan.network.groups !== undefined
      ? (['inbound-udp'] as const)
      : []),
  ])
}
