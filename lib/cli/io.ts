/**
 * What a command writes to and is told: `process` fits, and so does a test.
 */

export interface Output {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
}

export interface CommandIo {
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  /** Ends `--follow` and `--watch`. */
  readonly signal?: AbortSignal
}
