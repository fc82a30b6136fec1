/**
 * env, fs and limits.
 * Invariant: no variable that steers the programs which start the command, no path that climbs.
 */
import { type Layer, compact } from '../layer.js'
import { type Problem, problem, quote } from '../problem.js'
import type { Limits } from '../types.js'
import { parseDuration, parseSize } from '../units.js'
import type { Field, Reader } from './reader.js'

/** Set by agentjail itself, from the service user's account. */
const ownVariables: ReadonlySet<string> = new Set(['HOME', 'USER', 'LOGNAME', 'SHELL'])

/** Read by the loader and the interpreters between agentjail and the command. */
const steering = /^(?:LD_|DYLD_|PERL|GCONV_PATH$|BASH_ENV$|ENV$|BASH_FUNC_)/

/** The name of an environment variable that a policy may set or pass. */
export function parseVariable(text: string): string | Problem {
  if (!/^[A-Za-z_][A-Za-z0-9_]{0,127}$/.test(text)) {
    return problem(
      `${quote(text)} is not a variable's name`,
      'letters, digits and underscores only',
    )
  }
  if (ownVariables.has(text)) {
    return problem(`${text} is set by agentjail from the account`, 'leave it out')
  }
  if (steering.test(text)) {
    return problem(
      `${text} steers the programs that start the command`,
      'set it in a script that the jail runs',
    )
  }
  return text
}

export function readEnv(reader: Reader, field: Field | undefined): Layer['env'] {
  if (!field) return { pass: [], set: new Map() }
  const fields = reader.map(field, 'env')
  const pass = reader
    .listOrOne(fields.get('pass'))
    .flatMap((item) => reader.parsed(item, parseVariable) ?? [])
  const set = new Map<string, string>()
  const setField = fields.get('set')
  for (const [key, value] of setField ? reader.dictionary(setField) : []) {
    const name = parseVariable(key)
    const text = reader.text(value, 32_768)
    if (typeof name !== 'string') {
      reader.fail(reader.originAt(value.at.range?.[0] ?? 0), name.problem, name.hint)
    } else if (text !== undefined && !reader.refuseSecret(value, name, text)) set.set(name, text)
  }
  return { pass, set }
}

export function readFs(reader: Reader, field: Field | undefined): Layer['fs'] {
  if (!field) return { read: [], write: [], deny: [] }
  const fields = reader.map(field, 'fs')
  const paths = (key: string): readonly string[] =>
    reader.listOrOne(fields.get(key)).flatMap((item) => {
      const path = reader.parsed(item, parsePath)
      if (key !== 'write' || path !== '/') return path ?? []
      reader.failAt(item, 'fs.write opens the whole file system', 'name the directories')
      return []
    })
  return { read: paths('read'), write: paths('write'), deny: paths('deny') }
}

/** Absolute, `./x` or `~/x`; without a trailing slash, empty or dot segments. */
function parsePath(text: string): string | Problem {
  if (text === '.' || text === './') return '.'
  if (text === '~' || text === '~/') return '~'
  const hint = 'write /path, ./path (of the working directory) or ~/path (of the home)'
  if (!/^(?:\/|\.\/|~\/)/.test(text)) {
    return problem(
      `${quote(text)} is no plain path`,
      /^[^.~/]|^\.[^./]/.test(text) ? `write ./${text} for the working directory` : hint,
    )
  }
  const segments = text.split('/').slice(1)
  if (segments.includes('..') || segments.includes('.')) {
    return problem(`${quote(text)} has dot segments`, 'write the path as it ends up')
  }
  if (/[*?[\]{}]/.test(text)) {
    return problem(`${quote(text)} has wildcards`, 'name the directory; all in it is covered')
  }
  const rest = segments.filter((segment) => segment !== '')
  return `${text.slice(0, text.indexOf('/'))}/${rest.join('/')}`
}

export function readLimits(reader: Reader, field: Field | undefined): Limits {
  if (!field) return {}
  const fields = reader.map(field, 'limits')
  return compact({
    memory: reader.parsedNumber(fields.get('memory'), sizeWithUnit),
    cpu: reader.number(fields.get('cpu'), 0.01, 4096, true),
    pids: reader.number(fields.get('pids'), 1, 4_194_304),
    openFiles: reader.number(fields.get('openFiles'), 16, 1_048_576),
    tmp: reader.parsedNumber(fields.get('tmp'), sizeWithUnit),
    time: reader.parsedNumber(fields.get('time'), positiveDuration),
    egressBytes: reader.parsedNumber(fields.get('egressBytes'), sizeWithUnit),
  })
}

/** A bare number might be meant in any unit, and here a wrong one ends the command. */
const hasNoUnit = (value: string | number): boolean => /^[0-9.]+$/.test(String(value))

function sizeWithUnit(value: string | number): number | Problem {
  const text = String(value)
  if (!hasNoUnit(value)) return parseSize(value)
  return problem(`${text} has no unit`, `write ${text}B, ${text}MB or ${text}MiB`)
}

function positiveDuration(value: string | number): number | Problem {
  const text = String(value)
  if (hasNoUnit(value))
    return problem(`${text} has no unit`, `write ${text}s, ${text}m or ${text}h`)
  const seconds = parseDuration(value)
  return seconds === 0 ? problem('a time limit of 0 seconds', 'write e.g. 30m') : seconds
}
