/**
 * One record of the audit log as a line for people. Pure.
 */
import { describeTarget } from '../audit/explain.js'
import type { Palette } from '../audit/palette.js'
import { reasons } from '../audit/record.js'
import { safeText } from '../audit/sanitise.js'
import { formatBytes } from './human.js'
import type { LogRecord } from './logs.js'

/** Without a line end. Times are local, as a person at this terminal reads them. */
export function renderLogLine(record: LogRecord, colours: Palette): string {
  const head = `${colours.dim(localTime(record.time))} ${safeText(record.jail, 32)}`
  if ('dropped' in record) {
    return `${head} ${colours.yellow(`${String(record.dropped)} records are missing here`)}`
  }
  const { verdict, reason, count, up, down, direction, pid, command, detail } = record
  const isDenied = verdict === 'deny'
  const parts = [
    isDenied ? colours.red('denied ') : colours.green('allowed'),
    direction === 'in' ? 'in' : undefined,
    record.layer === 'dns' ? 'look-up' : undefined,
    describeTarget(record),
    count === undefined || count === 1 ? undefined : `(${String(count)} times)`,
    isDenied ? `- ${reasons[reason]}` : undefined,
    detail === undefined ? undefined : `[${safeText(detail)}]`,
    up === undefined && down === undefined
      ? undefined
      : `- ${formatBytes(up ?? 0)} sent, ${formatBytes(down ?? 0)} received`,
    pid === undefined ? undefined : `- pid ${String(pid)}`,
    command === undefined ? undefined : safeText(command, 80),
  ]
  return `${head} ${parts.filter((part) => part !== undefined).join(' ')}`
}

function localTime(iso: string): string {
  const date = new Date(iso)
  if (Number.isNaN(date.getTime())) return safeText(iso, 24)
  const two = (n: number): string => String(n).padStart(2, '0')
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-')
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
}
