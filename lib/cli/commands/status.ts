/**
 * `agentjail status`: all jails, once, as JSON, or again every two seconds.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { wantsColour } from '../../audit/palette.js'
import { type JailStatus, renderStatus } from '../../status/status.js'
import type { CommandIo } from '../io.js'

export interface StatusArgs {
  readonly watch: boolean
  readonly json: boolean
}

const watchInterval = 2_000
/** Cursor home, and erase from there to the end (ECMA-48 CUP, ED): flickers less than a cleared screen. */
const home = '\u001b[H\u001b[J'

/** Times as in the log: ISO 8601. */
function forPrograms(jail: JailStatus): object {
  return { ...jail, since: new Date(jail.since).toISOString() }
}

/**
 * Exit 0, also where no jail runs.
 * @param read what the registry knows; asked anew for each picture
 */
export async function statusCommand(
  args: StatusArgs,
  io: CommandIo,
  read: () => Promise<readonly JailStatus[]>,
): Promise<number> {
  const isTerminal = io.stdout.isTTY === true
  const isOver = (): boolean => io.signal?.aborted === true || io.stdout.destroyed === true
  for (;;) {
    const jails = await read()
    const text = args.json
      ? `${JSON.stringify(jails.map(forPrograms), undefined, args.watch ? undefined : 2)}\n`
      : renderStatus(jails, {
          now: Date.now(),
          colour: wantsColour(io.stdout, io.env),
          ...(isTerminal && { columns: io.stdout.columns ?? 80 }),
        })
    io.stdout.write(args.watch && !args.json && isTerminal ? home + text : text)
    if (!args.watch || isOver()) return 0
    await delay(watchInterval, undefined, io.signal && { signal: io.signal }).catch(() => undefined)
    if (isOver()) return 0
  }
}
