/**
 * `agentjail run` and `agentjail plan`: options to plan, plan to warden.
 */
import { dirname, join, resolve } from 'node:path'
import { LiveDenials } from '../../audit/live.js'
import { wantsColour } from '../../audit/palette.js'
import { renderSummary } from '../../audit/summary.js'
import type { Decision } from '../../audit/record.js'
import { createScrub, scrubError } from '../../credentials/scrub.js'
import { exitCode, JailError } from '../../errors.js'
import type { ResolvedCredential } from '../../gate/protocol.js'
import type { Ending } from '../../launch/types.js'
import { compilePlan, wantsCa } from '../../plan/compile.js'
import { defaultJailName, parseJailName } from '../../plan/names.js'
import { planToJson, renderPlan } from '../../plan/render.js'
import type { Facts, Plan, RenderedPlan } from '../../plan/types.js'
import { loadPrecompiled } from '../../policy/precompiled.js'
import { fillSlots } from '../../policy/slots.js'
import type { Isolation, Policy } from '../../policy/types.js'
import { collectDead, makeState, openContext, startAhead } from '../../session/context.js'
import type { Context } from '../../session/context.js'
import type { BackendChoice } from '../../session/backend-choice.js'
import { elevate } from '../../session/elevate.js'
import {
  callerHome,
  callerIdentity,
  hostAddresses,
  hostName,
  hostResolvers,
  packageRoot,
  systemRoots,
  jailGroups,
} from '../../session/host.js'
import { relaySignals } from '../../session/signals.js'
import { type CommandIo, scrubbedIo } from '../io.js'

export interface RunArgs {
  readonly policy: readonly string[]
  readonly command: readonly [string, ...string[]]
  readonly name?: string | undefined
  readonly user?: string | undefined
  readonly isolation?: Isolation | undefined
  /** Absent: nftables, or what else is installed. */
  readonly backend?: BackendChoice | undefined
  /** An image whose files are the command's, in place of the host's. */
  readonly container?: string | undefined
  /** A jail that runs, to run the command in. */
  readonly join?: string | undefined
  readonly dryRun: boolean
  readonly json: boolean
  readonly quiet: boolean
  /** Absent: on a terminal. */
  readonly showDenials?: boolean | undefined
  /** The command line itself, for sudo. */
  readonly argv: readonly string[]
  readonly script: string
}

/** Resolves with how the command ended; agentjail's own refusals throw. */
export async function runCommand(
  args: RunArgs,
  io: CommandIo,
  open?: () => Promise<Context>,
): Promise<Ending> {
  const caller = callerIdentity()
  if (args.name !== undefined) parseJailName(args.name)
  if (args.join !== undefined) return await joinJail(args, args.join)
  if (process.getuid?.() !== 0) {
    // Read once as the caller: mistakes are told without asking for a password, and names to pass are known.
    const policy = await loadPolicy(args.policy, caller.uid)
    return await elevate(args.script, args.argv, environmentNames(policy))
  }
  const server = args.dryRun || open !== undefined ? undefined : startAhead(args)
  try {
    const policy = await loadPolicy(args.policy, caller.uid)
    const openOwn = (): Promise<Context> => openContext(undefined, args.backend, server)
    return await runPolicy(policy, args, io, { open: open ?? openOwn })
  } finally {
    server?.close()
  }
}

/** What else wants to hear of a run. */
export interface RunHooks {
  /** Every decision, allowed and denied, as it is recorded. */
  readonly onDecisions?: (decisions: readonly Decision[]) => void
  readonly open?: () => Promise<Context>
}

/** As `runCommand`, for a policy already in memory. As root only. */
export async function runPolicy(
  policy: Policy,
  args: RunArgs,
  io: CommandIo,
  hooks: RunHooks = {},
): Promise<Ending> {
  const caller = callerIdentity()
  const context = await (hooks.open ?? openContext)()
  for (const { name, why } of (await collectDead(context)).kept)
    io.stderr.write(`agentjail: jail ${name} cannot be cleared: ${why}\n`)
  const credentials = await findCredentials(policy, context, caller)
  if (credentials.resolved.length === 0) return await runWith(context, credentials, args, io, hooks)
  const scrub = createScrub(credentials.resolved)
  try {
    return await runWith(context, credentials, args, scrubbedIo(io, scrub), hooks)
  } catch (error) {
    throw scrubError(error, scrub)
  }
}

async function runWith(
  context: Context,
  credentials: FoundCredentials,
  args: RunArgs,
  io: CommandIo,
  hooks: RunHooks,
): Promise<Ending> {
  const { plan, facts } = await makePlan(
    context,
    credentials.policy,
    args,
    credentials.resolved,
    (text) => io.stderr.write(`agentjail: ${text}\n`),
  )
  if (args.dryRun) {
    printPlan(context, plan, args.json, io)
    return { code: exitCode.ok }
  }
  await makeState(context, plan.launch.isolation)
  const env = new Map([...plan.launch.env, ...credentials.env])
  return await supervise(
    context,
    { ...plan, launch: await inImage({ ...plan.launch, env }, args, context) },
    facts,
    args,
    io,
    hooks,
  )
}

/** The launch with an image's files, words and variables; what the policy sets wins. */
async function inImage(
  launch: Plan['launch'],
  { container, isolation }: RunArgs,
  { system, config }: Context,
): Promise<Plan['launch']> {
  if (container === undefined) return launch
  if (isolation === 'basic' || system.platform !== 'linux') {
    throw new JailError('USAGE', '--container needs a file system of its own', {
      hint: 'use isolation namespace or uid, on Linux',
    })
  }
  const { openImage } = await import('../../container/image.js')
  const dir = join(dirname(config.homeDir), 'images')
  const { entrypoint, env, ...image } = await openImage(system, dir, container)
  const [first, ...rest] = [...entrypoint, ...launch.command]
  const path = env.get('PATH')
  return {
    ...launch,
    image,
    command: first === undefined ? launch.command : [first, ...rest],
    env: new Map([...env, ...launch.env, ...(path === undefined ? [] : [['PATH', path] as const])]),
  }
}

/** The plan of a run, with the rules as they would be loaded. Changes nothing. As root only. */
export async function planPolicy(policy: Policy, args: RunArgs): Promise<RenderedPlan> {
  const context = await openContext()
  const credentials = await findCredentials(policy, context, callerIdentity())
  const { plan } = await makePlan(context, credentials.policy, args, credentials.resolved)
  return { plan, rules: context.backend.render(plan.network) }
}

async function joinJail(args: RunArgs, name: string): Promise<Ending> {
  const jail = parseJailName(name)
  if (process.getuid?.() !== 0) return await elevate(args.script, args.argv, [])
  const signals = relaySignals()
  const { platform } = await openContext()
  return await platform.join(jail, args.command, signals)
}

/** Values for the policy's credential slots, and what the command sees of them. Nothing is loaded where there are none. */
async function findCredentials(
  policy: Policy,
  { platform }: Pick<Context, 'platform'>,
  caller: { uid: number; gid: number },
): Promise<FoundCredentials> {
  if (policy.credentials.size === 0) return { policy, resolved: [], env: new Map() }
  const { mayHaveValues, resolveCredentials } = await import('../../credentials/resolve.js')
  // Before the first key is read.
  if (mayHaveValues(policy.credentials.values(), { callerEnv: process.env }))
    await platform.forbidCoreDumps()
  const { credentialEnvironment } = await import('../../credentials/environment.js')
  const facts = {
    callerEnv: process.env,
    caller: { ...caller, home: await callerHome(platform, caller.uid) },
    isRootPolicy: caller.uid === 0,
  }
  const resolved = await resolveCredentials(policy.credentials.values(), facts)
  const { policy: filled, missing } = fillSlots(policy, new Set(resolved.map(({ id }) => id)))
  const [first] = missing
  if (first !== undefined) {
    throw new JailError(
      'POLICY_INVALID',
      `${first.origin.file}:${first.origin.line}:${first.origin.column}: the credential ${first.id} has no value`,
      {
        hint: 'set it where the policy says it comes from, or make it optional: true',
      },
    )
  }
  return {
    policy: filled,
    resolved,
    env: credentialEnvironment(policy.credentials.values(), resolved),
  }
}

interface FoundCredentials {
  readonly policy: Policy
  readonly resolved: readonly ResolvedCredential[]
  readonly env: ReadonlyMap<string, string>
}

async function loadPolicy(refs: readonly string[], callerUid: number): Promise<Policy> {
  const precompiled = loadPrecompiled(refs)
  if (precompiled !== undefined) return precompiled
  const { loadPolicies } = await import('../../policy/loader.js')
  return await loadPolicies(refs, { cwd: process.cwd(), callerUid })
}

function environmentNames(policy: Policy): string[] {
  const sources = [...policy.credentials.values()].flatMap(({ from }) =>
    from.kind === 'env' ? [from.name] : [],
  )
  return [
    ...policy.env.pass,
    ...sources,
    'TERM',
    'COLORTERM',
    'NO_COLOR',
    'FORCE_COLOR',
    'LANG',
    'LC_ALL',
    'TZ',
  ]
}

async function makePlan(
  context: Context,
  policy: Policy,
  args: RunArgs,
  credentials: readonly ResolvedCredential[],
  note: (text: string) => void = () => undefined,
): Promise<{ plan: Plan; facts: Facts }> {
  const { system, config, platform } = context
  const caller = callerIdentity()
  const jail = args.name === undefined ? defaultJailName(policy.name) : parseJailName(args.name)
  const account = await platform.findAccount({
    jail,
    callerUid: caller.uid,
    ...(args.user === undefined ? {} : { user: args.user }),
  })
  const facts: Facts = {
    platform: system.platform,
    settings: config,
    account,
    resolvers: config.upstreams.length > 0 ? config.upstreams : await hostResolvers(system),
    hostAddresses: hostAddresses(),
    caller,
    callerEnv: process.env,
    nodePath: process.execPath,
    protect: [
      packageRoot,
      ...args.policy.filter((name) => name.includes('/')).map((path) => resolve(path)),
    ],
    hostName: hostName(),
    groups: jailGroups(),
  }
  const request = {
    jail,
    command: args.command,
    cwd: process.cwd(),
    isolation: platform.isolationFor(args.isolation, policy.isolation, note),
    policies: args.policy,
  }
  return { plan: compilePlan(policy, facts, request, credentials), facts }
}

function printPlan(context: Context, plan: Plan, json: boolean, io: CommandIo): void {
  const rendered = { plan, rules: context.backend.render(plan.network) }
  io.stdout.write(
    json ? `${JSON.stringify(planToJson(rendered), null, 2)}\n` : renderPlan(rendered),
  )
}

async function supervise(
  context: Context,
  plan: Plan,
  facts: Facts,
  args: RunArgs,
  io: CommandIo,
  hooks: RunHooks,
): Promise<Ending> {
  const signals = relaySignals()
  const isTerminal = io.stderr.isTTY === true
  const { platform } = context
  const live = new LiveDenials({
    jail: plan.jail,
    policy: () => current,
    write: (text) => io.stderr.write(text),
    isTerminal,
    isBusy: () => platform.isTerminalBusy(),
    monotonic: () => performance.now(),
  })
  let current = plan.policy
  const show = args.showDenials ?? (isTerminal && !args.quiet)
  const upstreamCa = wantsCa(plan.policy) ? await systemRoots(context.system) : undefined
  const events = {
    onDecisions: (decisions: Parameters<LiveDenials['add']>[0]) => {
      hooks.onDecisions?.(decisions)
      if (show) live.add(decisions)
      else for (const decision of decisions) live.fold.add(decision)
    },
    onPolicy: (next: Plan) => {
      current = next.policy
    },
    onNotice: (text: string) => {
      io.stderr.write(`agentjail: ${text}\n`)
    },
  }
  const warden = platform.makeWarden(plan, facts, events, upstreamCa)
  const ending = await warden.run(signals)
  // No live line after, or within, the summary.
  await live.settled()
  if (!args.quiet) {
    const colour = wantsColour(io.stderr, io.env)
    io.stderr.write(
      renderSummary(live.fold, {
        jail: plan.jail,
        policy: current,
        dropped: warden.dropped,
        colour,
      }),
    )
  }
  return ending
}
