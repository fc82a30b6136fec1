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
