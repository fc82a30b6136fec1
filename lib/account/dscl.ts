/**
 * dscl: macOS's directory records, asked and changed by one tool whose exit codes are |error| modulo 256.
 * Invariant: a write counts only when the value reads back; a refusal for lack of Full Disk Access says so.
 */
import { JailError } from '../errors.js'
import type { CommandResult, System } from '../system/types.js'

const program = '/usr/bin/dscl'
/** eDSRecordNotFound, -14136. */
const recordNotFound = 56
/** A deletion may wait for somebody to click: nobody does on a server. */
const deleteTimeout = 20_000

export type RecordKind = 'Users' | 'Groups'

/** Undefined: no such record. Values by key; only the keys asked for. */
export async function readRecord(
  system: System,
  kind: RecordKind,
  name: string,
  keys: readonly string[],
): Promise<ReadonlyMap<string, string> | undefined> {
  const result = await system.run([program, '.', '-read', `/${kind}/${name}`, ...keys])
  if (result.code === recordNotFound) return undefined
  if (result.code !== 0) throw refusal(`read ${name}`, result)
  return parseRecord(result.stdout)
}

/** Name to value for all records that have the key. */
export async function listRecords(
  system: System,
  kind: RecordKind,
  key: string,
): Promise<ReadonlyMap<string, string>> {
  const result = await system.run([program, '.', '-list', `/${kind}`, key])
  if (result.code !== 0) throw refusal(`list ${kind}`, result)
  const found = new Map<string, string>()
  for (const line of result.stdout.split('\n')) {
    const match = /^(\S+)\s+(.*)$/.exec(line)
    if (match?.[1] !== undefined) found.set(match[1], (match[2] ?? '').trim())
  }
  return found
}

/** Makes the record with these values and reads every one back. */
export async function writeRecord(
  system: System,
  kind: RecordKind,
  name: string,
  values: ReadonlyMap<string, string>,
): Promise<void> {
  const path = `/${kind}/${name}`
  const writes = [[], ...[...values].map(([key, value]) => [key, value])]
  for (const write of writes) {
    const result = await system.run([program, '.', '-create', path, ...write])
    if (result.code !== 0) throw refusal(`make ${name}`, result)
  }
  const found = await readRecord(system, kind, name, [...values.keys()])
  for (const [key, value] of values) {
    const is = found?.get(key)
    if (is === value) continue
    throw new JailError(
      'ACCOUNT',
      `${key} of ${name} was set to ${value} and reads back as ${is ?? 'nothing'}`,
      { hint: `the directory did not take it; see: dscl . -read ${path}; ${fullDiskAccess}` },
    )
  }
}

/** False: there was none. */
export async function deleteRecord(
  system: System,
  kind: RecordKind,
  name: string,
): Promise<boolean> {
  const argv = [program, '.', '-delete', `/${kind}/${name}`] as const
  const result = await system.run(argv, { timeout: deleteTimeout })
  if (result.code === recordNotFound) return false
  if (result.code !== 0) throw refusal(`remove ${name}`, result)
  if ((await readRecord(system, kind, name, ['RecordName'])) !== undefined)
    throw new JailError('ACCOUNT', `the record ${name} is still there after its removal`, {
      hint: fullDiskAccess,
    })
  return true
}

/** `Key: value`, or, where the value holds a space, `Key:` and the value on a line of its own. */
export function parseRecord(text: string): Map<string, string> {
  const values = new Map<string, string>()
  let key: string | undefined
  for (const line of text.split('\n')) {
    const match = /^(?:dsAttrTypeNative:)?([A-Za-z]+):(?: (.*))?$/.exec(line)
    if (match?.[1] !== undefined) {
      key = match[1]
      if (match[2] !== undefined) values.set(key, match[2])
    } else if (key !== undefined && line.startsWith(' ') && !values.has(key)) {
      values.set(key, line.slice(1))
    }
  }
  return values
}

const fullDiskAccess =
  'give Full Disk Access (System Settings > Privacy & Security) to the program that started this: the terminal, or sshd-keygen-wrapper for SSH'

function refusal(what: string, { stderr, code }: CommandResult): JailError {
  if (/-14120|eDSPermissionError/.test(stderr))
    return new JailError('ACCOUNT', `macOS does not let agentjail ${what}: no permission`, {
      hint: fullDiskAccess,
    })
  if (stderr.includes('no answer within'))
    return new JailError('ACCOUNT', `macOS does not answer when asked to ${what}`, {
      hint: `it may be waiting for a click on its screen; or ${fullDiskAccess}`,
    })
  const said = stderr.trim().split('\n').at(-1) ?? ''
  return new JailError('ACCOUNT', `cannot ${what}: ${said === '' ? `code ${String(code)}` : said}`)
}
