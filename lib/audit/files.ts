/**
 * Where the audit log lies and how its files are named: `bot.jsonl` is written, `bot.1.jsonl` is the
 * newest of the old ones.
 * Invariant: writer and reader agree on this file alone.
 */
import { join } from 'node:path'

/** A name that a jail can have: see `lib/policy` and the account's name rules. */
const fileForm = /^([a-z][a-z0-9-]{0,31})(?:\.([1-9]))?\.jsonl$/

/** `generation` 0 is the file being written; higher is older. */
export function logPath(dir: string, jail: string, generation = 0): string {
  return join(dir, generation === 0 ? `${jail}.jsonl` : `${jail}.${String(generation)}.jsonl`)
}

/** The jail and generation of a file's name, or `undefined` for a stranger's. */
export function parseLogName(
  file: string,
): { readonly jail: string; readonly generation: number } | undefined {
  const match = fileForm.exec(file)
  if (!match?.[1]) return undefined
  return { jail: match[1], generation: Number(match[2] ?? 0) }
}
