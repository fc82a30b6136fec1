/**
 * `agentjail learn [-o FILE] [--http] -- COMMAND`: everything public is open once, and written down.
 * Invariant: private networks and metadata stay closed; the file is made after the command's last
 * process is gone, and never over one that exists.
 */
import { basename, relative, resolve, dirname } from 'node:path'
import { JailError } from '../../errors.js'
import type { Ending } from '../../launch/types.js'
import { learnedPolicy } from '../../learn/learned.js'
import type { Bundle } from '../../learn/learned.js'
import { planNewFile } from '../../learn/new-file.js'
import { Observer } from '../../learn/observe.js'
import { defaultJailName, parseJailName } from '../../plan/names.js'
import { composeLayers } from '../../policy/compose.js'
import { listBundled, loadPolicies } from '../../policy/loader.js'
import { parsePolicy } from '../../policy/parse.js'
import type { Policy } from '../../policy/types.js'
import { elevate } from '../../session/elevate.js'
import { callerIdentity } from '../../session/host.js'
import type { CommandIo } from '../io.js'
import { runPolicy } from './run.js'

export interface LearnArgs {
  readonly command: readonly [string, ...string[]]
  readonly output: string
  /** Policies to start from: what they grant is not learned again. */
  readonly policy: readonly string[]
  readonly name?: string | undefined
  readonly http: boolean
  /** Variables to hand to the command, and to name in the policy. */
  readonly env: readonly string[]
  readonly argv: readonly string[]
  readonly script: string
}

/** Resolves with how the command ended; the policy is written however it did. */
export async function learnCommand(args: LearnArgs, io: CommandIo): Promise<Ending> {
  const caller = callerIdentity()
  const path = resolve(args.output)
  const file = planNewFile(path, args.output, caller)
  for (const name of args.env) checkVariable(name)
  const base = await startingPolicy(args, caller.uid)
  if (process.getuid?.() !== 0) return await elevate(args.script, args.argv, base.env.pass)
  const observer = new Observer()
  const run = { ...args, quiet: true, dryRun: false, json: false, isolation: 'namespace' } as const
  io.stderr.write('agentjail: learning: everything public is open to this command\n')
  const ending = await runPolicy(base, run, io, {
    onDecisions: (decisions) => {
      observer.add(decisions)
    },
  })
  const observed = observer.result()
  const text = learnedPolicy({
    name: nameOf(path),
    command: basename(args.command[0]),
    observed,
    bundles: await loadBundles(),
    bases: args.policy.map((ref) => fromFile(ref, path)),
    pass: args.env,
    http: args.http,
  })
  checkText(text, args.output)
  file.write(text)
  const count = observed.destinations.length
  io.stderr.write(
    `agentjail: ${String(count)} destination${count === 1 ? '' : 's'} learned, ${args.output} written; try it: agentjail run --policy ${shown(args.output)} -- ${args.command[0]}${args.command.length > 1 ? ' …' : ''}\n`,
  )
  return ending
}

/** All that the run may do: the given policies, and beyond them whatever is public. */
async function startingPolicy(args: LearnArgs, callerUid: number): Promise<Policy> {
  const jail =
    args.name === undefined
      ? defaultJailName(`learn-${basename(args.command[0])}`)
      : parseJailName(args.name)
  const base =
    args.policy.length === 0
      ? emptyPolicy()
      : await loadPolicies(args.policy, { cwd: process.cwd(), callerUid })
  return {
    ...base,
    name: jail,
    isolation: 'namespace',
    report: true,
    reportHttp: args.http,
    // The command's own pace shall not decide what is seen.
    dns: { ...base.dns, rate: Math.max(base.dns.rate, 500) },
    env: { ...base.env, pass: [...new Set([...base.env.pass, ...args.env])] },
  }
}

function emptyPolicy(): Policy {
  const { layer } = parsePolicy('version: 1\n', 'learn')
  const composed = composeLayers(layer === undefined ? [] : [layer], [
    { name: 'learn', source: 'learn' },
  ])
  if (composed.policy === undefined) throw new Error('the empty policy does not compose')
  return composed.policy
}

async function loadBundles(): Promise<readonly Bundle[]> {
  const bundles = await listBundled()
  return await Promise.all(
    bundles.map(async ({ name }) => ({ name, policy: await loadPolicies([name]) })),
  )
}

function checkVariable(name: string): void {
  const { problems } = parsePolicy(JSON.stringify({ version: 1, env: { pass: [name] } }), '--env')
  const [first] = problems ?? []
  if (first !== undefined) throw new JailError('USAGE', first.problem, { hint: first.hint })
}

/** What is written must load: anything else is our mistake, told before a file is there. */
function checkText(text: string, file: string): void {
  const { problems } = parsePolicy(text, file)
  const [first] = problems ?? []
  if (first !== undefined) {
    throw new JailError('STATE', `what was learned makes no policy: ${first.problem}`, {
      hint: first.hint,
    })
  }
}

/** A path as the new file must name it: relative to itself. */
function fromFile(ref: string, path: string): string {
  if (!ref.includes('/') && !/\.(?:ya?ml|json)$/.test(ref)) return ref
  const near = relative(dirname(path), resolve(ref))
  return near.startsWith('.') ? near : `./${near}`
}

function nameOf(path: string): string {
  return defaultJailName(basename(path).replace(/\.(?:ya?ml|json)$/, ''))
}

function shown(file: string): string {
  return file.includes('/') ? file : `./${file}`
}
