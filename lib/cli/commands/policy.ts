/**
 * `agentjail policy list | show NAME… | check FILE…`.
 * Invariant: nothing is changed and no privilege is needed; `check` exits 2 on any mistake.
 */
import { JailError, errorMessage, exitCode } from '../../errors.js'
import { exportPolicy } from '../../policy/export.js'
import { policyToJson } from '../../policy/json.js'
import { type LoadOptions, PolicyError, listBundled, loadPolicies } from '../../policy/loader.js'
import { formatProblem } from '../../policy/parse.js'
import { renderPolicy } from '../../policy/render.js'
import type { Output } from '../io.js'

export interface PolicyArgs {
  readonly action: 'list' | 'show' | 'check'
  /** Bundled names or paths. `show` composes them; `check` takes each by itself. */
  readonly names: readonly string[]
  readonly json: boolean
  /** `show`: as one policy file instead of words. */
  readonly yaml?: boolean
}

interface PolicyIo {
  readonly stdout: Output
  readonly stderr: Output
}

/** @returns the exit code; throws JailError only for `show`. */
export async function policyCommand(
  args: PolicyArgs,
  io: PolicyIo,
  options: LoadOptions = {},
): Promise<number> {
  switch (args.action) {
    case 'list':
      return list(args, io)
    case 'show':
      return show(args, io, options)
    case 'check':
      return check(args, io, options)
  }
}

async function list({ json }: PolicyArgs, { stdout }: PolicyIo): Promise<number> {
  const policies = await listBundled()
  const width = Math.max(...policies.map(({ name }) => name.length))
  stdout.write(
    json
      ? `${JSON.stringify(policies, undefined, 2)}\n`
      : policies.map(({ name, description }) => `${name.padEnd(width)}  ${description}\n`).join(''),
  )
  return exitCode.ok
}

async function show(args: PolicyArgs, io: PolicyIo, options: LoadOptions): Promise<number> {
  requireNames(args, 'agentjail policy show openai-telegram')
  const policy = await loadPolicies(args.names, options)
  const render = args.json
    ? () => `${JSON.stringify(JSON.parse(policyToJson(policy)), undefined, 2)}\n`
    : args.yaml === true
      ? exportPolicy
      : renderPolicy
  io.stdout.write(render(policy))
  return exitCode.ok
}

interface Verdict {
  readonly name: string
  readonly ok: boolean
  /** One line each. */
  readonly problems: readonly string[]
}

async function check(args: PolicyArgs, io: PolicyIo, options: LoadOptions): Promise<number> {
  requireNames(args, 'agentjail policy check ./policy.yaml')
  const verdicts: Verdict[] = []
  for (const name of args.names) verdicts.push(await checkOne(name, options))
  if (args.json) io.stdout.write(`${JSON.stringify(verdicts, undefined, 2)}\n`)
  else {
    for (const { name, ok, problems } of verdicts) {
      if (ok) io.stdout.write(`${name}: ok\n`)
      else io.stderr.write(problems.map((line) => `${line}\n`).join(''))
    }
  }
  return verdicts.every(({ ok }) => ok) ? exitCode.ok : exitCode.usage
}

async function checkOne(name: string, options: LoadOptions): Promise<Verdict> {
  try {
    await loadPolicies([name], options)
    return { name, ok: true, problems: [] }
  } catch (error) {
    if (error instanceof PolicyError) {
      return { name, ok: false, problems: error.problems.map(formatProblem) }
    }
    if (!(error instanceof JailError)) throw error
    const hint = error.hint === undefined ? '' : `; ${error.hint}`
    return { name, ok: false, problems: [errorMessage(error) + hint] }
  }
}

function requireNames({ action, names }: PolicyArgs, example: string): void {
  if (names.length > 0) return
  throw new JailError('USAGE', `policy ${action} needs a policy`, {
    hint: `for example: ${example}`,
  })
}
