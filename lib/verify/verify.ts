/**
 * One run of the battery: a jail started as `agentjail run` starts one, with targets around it.
 * Invariant: the plan differs from that of `run` only in what is listed in `overlay`, and in `without`.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, fstatSync, openSync, readlinkSync, readSync, unlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { networkPlan } from '../plan/network.js'
import { gatePolicy } from '../plan/compile.js'
import type { Facts, Plan } from '../plan/types.js'
import type { HardeningPiece } from '../launch/types.js'
import type { Grant, Policy } from '../policy/types.js'
import { endProcesses } from '../session/processes.js'
import type { LinuxContext } from '../session/context.js'
import { relaySignals } from '../session/signals.js'
import { Warden } from '../session/warden.js'
import { judge } from './judge.js'
import type { Means } from './probes.js'
import { openStage, type Stage } from './stage.js'
import type { Finding, InsideConfig, InsideLine } from './types.js'

/** Names of the battery; `.example` is nobody's (RFC 2606). Only the first is granted. */
const names = {
  granted: 'granted.agentjail-verify.example',
  other: 'other.agentjail-verify.example',
  tunnel: 'tunnel.agentjail-verify.example',
} as const
const parent = 'agentjail-verify.example'

/** Processes, and bytes of /tmp, where the policy has no limit of its own. */
const defaultLimits = { pids: 128, tmp: 32 * 1024 * 1024 } as const

export interface VerifyRequest {
  readonly policy: Policy
  readonly without: readonly HardeningPiece[]
  /** From a policy and a command to the plan of `run`. */
  readonly makePlan: (
    policy: Policy,
    command: readonly [string, ...string[]],
    cwd: string,
    protect: readonly string[],
  ) => Promise<{ plan: Plan; facts: Facts }>
  readonly onNotice: (text: string) => void
}

export async function verify(context: LinuxContext, request: VerifyRequest): Promise<Finding[]> {
  const { system, tools } = context
  const nonce = randomBytes(8).toString('hex')
  const stage = await openStage({ system, ...tools }, nonce, names)
  try {
    const policy = overlay(request.policy, stage, request.without)
    const command = inside(tools.perl)
    const { plan, facts } = await request.makePlan(policy, command, stage.files.workspace, [
      stage.files.package,
    ])
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

/** A name of the battery's own is granted and its DNS goes to the target; limits and files are the battery's. */
function overlay(policy: Policy, stage: Stage, without: readonly HardeningPiece[]): Policy {
  const { target4 } = stage.wire
  const isNameless = without.includes('gate-names')
  const grant = (id: string, host: Grant['host']): Grant => ({
    id,
    host,
    ports: [{ first: 443, last: 443 }],
    proto: 'tcp',
    inspect: 'sni',
    access: 'full',
    rules: [],
    within: [],
    private: host.kind === 'exact',
    limits: {},
    origin: { file: 'agentjail verify', line: 1, column: 1 },
  })
  const next = policy.grants.length + 1
  const fixed = [names.granted, ...(isNameless ? [names.other] : [])]
  return {
    ...policy,
    // Keys have no part in this: nothing of the caller's secrets is loaded.
    grants: [
      ...policy.grants.map(withoutCredential),
      grant(`g${String(next)}`, { kind: 'exact', name: names.granted }),
      ...(isNameless ? [grant(`g${String(next + 1)}`, { kind: 'many', name: parent })] : []),
    ],
    credentials: new Map(),
    dns: {
      ...policy.dns,
      upstream: [{ address: target4, port: 53 }],
      hosts: new Map([...policy.dns.hosts, ...fixed.map((name) => [name, [target4]] as const)]),
    },
    fs: { read: [process.execPath], write: [], deny: [] },
    limits: { ...defaultLimits, ...policy.limits },
  }
}

function withoutCredential(grant: Grant): Grant {
  const { credential, ...rest } = grant
  return credential === undefined ? grant : rest
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
  const resultsPath = `${config.stateDir}/verify-${nonce}`
  const output = openSync(resultsPath, 'ax+', 0o600)
  unlinkSync(resultsPath)
  const input = openSync(fileURLToPath(new URL('../verify/inside.js', import.meta.url)), 'r')
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
    closeSync(input)
    closeSync(output)
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

/** Milliseconds in which a process that was left would write several times. */
const settle = 200

async function lives(
  system: LinuxContext['system'],
  uid: number,
  output: number,
): Promise<boolean> {
  const before = fstatSync(output).size
  await sleep(settle)
  return fstatSync(output).size > before || (await system.processesOf(uid)).length > 0
}

/** Bytes of results that are read: the battery needs a tenth of it. */
const maxResults = 256 * 1024

function linesOf(fd: number): InsideLine[] {
  const buffer = Buffer.alloc(maxResults)
  const length = readSync(fd, buffer, 0, maxResults, 0)
  return buffer
    .toString('utf8', 0, length)
    .split('\n')
    .flatMap((line) => {
      try {
        const { id, open, why } = JSON.parse(line) as Record<string, unknown>
        const isLine = typeof id === 'string' && typeof why === 'string'
        return isLine ? [{ id, open: typeof open === 'boolean' ? open : null, why }] : []
      } catch {
        return []
      }
    })
}
