/**
 * The words of `agentjail run ... -- COMMAND`, by Node's own parser: the command people put before every other.
 * Invariant: what it is not sure of (help, a mistake, anything unusual) it leaves to the full parser.
 */
import { parseArgs } from 'node:util'
import type { Isolation } from '../policy/types.js'
import { isBackendChoice } from '../session/backend-choice.js'
import type { RunArgs } from './commands/run.js'

const options = {
  policy: { type: 'string', short: 'p', multiple: true },
  name: { type: 'string', short: 'n' },
  user: { type: 'string' },
  isolation: { type: 'string' },
  backend: { type: 'string' },
  quiet: { type: 'boolean', short: 'q' },
  'show-denials': { type: 'boolean' },
} as const

const isIsolation = (text: string | undefined): text is Isolation | undefined =>
  text === undefined || ['namespace', 'uid', 'basic'].includes(text)

/** `undefined`: ask the full parser. */
export function parseRunArgs(argv: readonly string[], script: string): RunArgs | undefined {
  const end = argv.indexOf('--')
  const [first, ...rest] = argv.slice(end + 1)
  if (argv[0] !== 'run' || end < 0 || first === undefined || first === '') return undefined
  try {
    const { values } = parseArgs({
      args: argv.slice(1, end),
      options,
      strict: true,
      allowPositionals: false,
    })
    const { policy, name, user, isolation, backend, quiet } = values
    if (policy === undefined || policy.includes('') || !isIsolation(isolation)) return undefined
    if (backend !== undefined && !isBackendChoice(backend)) return undefined
    return {
      policy,
      command: [first, ...rest],
      name,
      user,
      isolation,
      backend,
      dryRun: false,
      json: false,
      quiet: quiet ?? false,
      showDenials: values['show-denials'],
      argv,
      script,
    }
  } catch {
    return undefined
  }
}
