/**
 * `agentjail logs [NAME]`: the audit log, for people or as it is (`--json`).
 */
import { palette, wantsColour } from '../../audit/palette.js'
import { parseJailName } from '../../plan/names.js'
import { loadConfig } from '../../setup/config.js'
import { parseSince } from '../../status/human.js'
import { renderLogLine } from '../../status/log-line.js'
import { readLog } from '../../status/logs.js'
import type { CommandIo } from '../io.js'

export interface LogsArgs {
  readonly name?: string
  readonly follow: boolean
  readonly denied: boolean
  /** `10m`, `2h`, or ISO 8601. */
  readonly since?: string
  readonly json: boolean
  /** For tests; default: the configured directory. */
  readonly dir?: string
}

/** Exit 0. Throws `JailError`: USAGE, NAME_INVALID, NAME_UNKNOWN, NOT_ROOT. */
export async function logsCommand(args: LogsArgs, io: CommandIo): Promise<number> {
  const query = {
    dir: args.dir ?? (await loadConfig()).logDir,
    deniedOnly: args.denied,
    ...(args.name !== undefined && { jail: parseJailName(args.name) }),
    ...(args.since !== undefined && { since: parseSince(args.since, Date.now()) }),
  }
  const colours = palette(wantsColour(io.stdout, io.env))
  const follow = args.follow ? { ...(io.signal && { signal: io.signal }) } : undefined
  for await (const record of readLog(query, follow)) {
    if (io.stdout.destroyed === true) break
    io.stdout.write(`${args.json ? JSON.stringify(record) : renderLogLine(record, colours)}\n`)
  }
  return 0
}
