/**
 * The library: what `agentjail run` and `agentjail plan` do, for programs.
 * Invariant: nothing is weaker here than on the command line; the same code runs, with the same refusals.
 *
 * @example
 * import { run } from 'agentjail'
 * const ending = await run({ policy: 'openai', command: ['node', 'bot.js'] })
 */
import type { Decision } from './audit/record.js'
import type { RunArgs } from './cli/commands/run.js'
import { JailError } from './errors.js'
import type { Ending } from './launch/types.js'
import type { RenderedPlan } from './plan/types.js'
import { loadPolicies } from './policy/loader.js'
import type { Isolation, Policy } from './policy/types.js'

export type { Decision, ReasonCode } from './audit/record.js'
export { reasons } from './audit/record.js'
export { exitCode, JailError } from './errors.js'
export type { ErrorCode } from './errors.js'
export type { Ending } from './launch/types.js'
export { renderPlan } from './plan/render.js'
export type { Plan, RenderedPlan } from './plan/types.js'
export { listBundled, loadPolicies, loadPolicy, PolicyError } from './policy/loader.js'
export type { LoadOptions } from './policy/loader.js'
export type { PolicyProblem } from './policy/parse.js'
export type { CidrGrant, Grant, Isolation, Policy } from './policy/types.js'

/** What `plan` and `run` need. */
export interface PlanOptions {
  /** Bundled name or path, several of them, or a policy that `loadPolicy` gave. */
  readonly policy: string | readonly string[] | Policy
  /** The program and its arguments; no shell reads them. */
  readonly command: readonly [string, ...string[]]
  /** The jail's name. Default: the policy's. */
  readonly name?: string
  /** Service user to use or make. Default: `aj-NAME`. */
  readonly user?: string
  /** Default: the policy's. */
  readonly isolation?: Isolation
}

export interface RunOptions extends PlanOptions {
  /** Every decision, allowed and denied, as the audit log has it. */
  readonly onDecision?: (decision: Decision) => void
  /** For the user: restored rules, limits that were hit, and the summary where `summary` is set. Default: none is shown. */
  readonly onNotice?: (text: string) => void
  /** The summary of what was blocked is told at the end. Default: false. */
  readonly summary?: boolean
}

/**
 * Runs a command in a jail; resolves with how it ended once all of the jail is gone.
 * The command has this process's standard streams and working directory; signals to this process are
 * forwarded to it meanwhile. Needs root: unlike the command line, it never asks sudo.
 * @throws JailError with `code`: NOT_ROOT, POLICY_INVALID, NAME_TAKEN, ...; then nothing was launched.
 */
export async function run(options: RunOptions): Promise<Ending> {
  requireRoot()
  const { runPolicy } = await import('./cli/commands/run.js')
  const { onDecision, onNotice, summary = false } = options
  const notices = { write: (text: string) => onNotice?.(text) }
  const io = { stdout: notices, stderr: notices, env: process.env }
  return await runPolicy(await policyOf(options), { ...argsOf(options), quiet: !summary }, io, {
    ...(onDecision === undefined
      ? {}
      : {
          onDecisions: (decisions: readonly Decision[]) => {
            for (const decision of decisions) onDecision(decision)
          },
        }),
  })
}

/**
 * What `run` would do, as data: account, rules, launch. Changes nothing. `renderPlan` makes text of it.
 * @throws JailError as `run`.
 */
export async function plan(options: PlanOptions): Promise<RenderedPlan> {
  requireRoot()
  const { planPolicy } = await import('./cli/commands/run.js')
  return await planPolicy(await policyOf(options), argsOf(options))
}

function requireRoot(): void {
  if (process.getuid?.() !== 0) {
    throw new JailError('NOT_ROOT', 'a jail is set up by root', {
      hint: 'run this program as root, or spawn the agentjail command, which asks sudo',
    })
  }
}

async function policyOf({ policy }: PlanOptions): Promise<Policy> {
  if (typeof policy === 'object' && 'grants' in policy) return policy
  return await loadPolicies(refsOf(policy))
}

function refsOf(policy: PlanOptions['policy']): readonly string[] {
  if (typeof policy === 'string') return [policy]
  return 'grants' in policy ? policy.source.split(' + ') : policy
}

function argsOf(options: PlanOptions): RunArgs {
  const { command, name, user, isolation, policy } = options
  if (!Array.isArray(command) || command.length === 0 || command[0] === '') {
    throw new JailError('USAGE', 'no command', { hint: "for example: command: ['node', 'bot.js']" })
  }
  return {
    policy: refsOf(policy),
    command,
    name,
    user,
    isolation,
    dryRun: false,
    json: false,
    quiet: true,
    showDenials: false,
    argv: [],
    script: '',
  }
}
