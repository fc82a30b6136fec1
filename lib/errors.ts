/**
 * The one error class users see, and the exit codes of the command line.
 * Invariant: every refusal carries a stable code, one sentence of what is wrong, and what would be right.
 */

/** Exit codes, after env(1) and sudo(8): the command's own code is passed through unchanged. */
export const exitCode = {
  ok: 0,
  /** Bad input: a policy, a name, an option. Nothing was changed. */
  usage: 2,
  /** agentjail itself refused or failed before the command was launched. */
  refused: 125,
  /** The command was found but could not be executed. */
  notExecutable: 126,
  /** The command was not found. */
  notFound: 127,
} as const

/** Stable codes; docs/errors.md lists each one. */
export type ErrorCode =
  | 'USAGE'
  | 'POLICY_INVALID'
  | 'POLICY_NOT_FOUND'
  | 'POLICY_UNSAFE'
  | 'CONFIG_INVALID'
  | 'NAME_INVALID'
  | 'NAME_TAKEN'
  | 'NAME_UNKNOWN'
  | 'NOT_ROOT'
  | 'TOOL_MISSING'
  | 'PLATFORM'
  | 'ACCOUNT'
  | 'BACKEND'
  | 'VERIFY_FAILED'
  | 'GATE'
  | 'LAUNCH'
  | 'STATE'
  | 'CLEANUP_PARTIAL'

/** An error meant for the user: `message` says what is wrong, `hint` what would be right. */
export class JailError extends Error {
  override readonly name = 'JailError'
  readonly code: ErrorCode
  readonly hint: string | undefined
  readonly exit: number

  /** By name: the bundle's lazy parts have a copy of this class. Subclasses are told apart as usual. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (Function.prototype[Symbol.hasInstance].call(this, value)) return true
    return this === JailError && value instanceof Error && value.name === 'JailError'
  }

  constructor(
    code: ErrorCode,
    message: string,
    options: { hint?: string; exit?: number; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.hint = options.hint
    this.exit = options.exit ?? defaultExit(code)
  }
}

function defaultExit(code: ErrorCode): number {
  switch (code) {
    case 'USAGE':
    case 'POLICY_INVALID':
    case 'CONFIG_INVALID':
    case 'POLICY_NOT_FOUND':
    case 'NAME_INVALID':
    case 'NAME_UNKNOWN':
      return exitCode.usage
    default:
      return exitCode.refused
  }
}

/** The message of anything thrown. */
export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The errno code (`ENOENT`, ...) of anything thrown, if it has one. */
export function errnoCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined
  return typeof error.code === 'string' ? error.code : undefined
}
