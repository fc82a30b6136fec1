/**
 * What a command writes to and is told: `process` fits, and so does a test.
 */

export interface Output {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
  /** Its reader went away: writing more is in vain. */
  readonly destroyed?: boolean
}

export interface CommandIo {
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  /** Ends `--follow` and `--watch`. */
  readonly signal?: AbortSignal
}

/** The same, with every text scrubbed. */
export function scrubbedIo(io: CommandIo, scrub: (text: string) => string): CommandIo {
  return { ...io, stdout: scrubbed(io.stdout, scrub), stderr: scrubbed(io.stderr, scrub) }
}

/** A view, not a copy: the columns of a terminal change. */
function scrubbed(output: Output, scrub: (text: string) => string): Output {
  return Object.assign(Object.create(output) as Output, {
    write: (text: string) => output.write(scrub(text)),
  })
}
