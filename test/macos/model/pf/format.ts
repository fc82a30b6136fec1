/**
 * How `pfctl -sr` and `-sn` show parsed rules: pfctl's own order and words (print_rule of OpenBSD 4.3),
 * whatever order they were written in.
 */
import type { End, Matchers, NumberTest, RdrRule, Statement } from './ast.js'

/** `names`: ports compared with `=` or `!=` are shown by service name, as getservbyport(3) answers. */
export function formatRule(rule: Statement, names: ReadonlyMap<number, string>): string {
  switch (rule.kind) {
    case 'other':
      return rule.text
    case 'rdr':
      return formatRdr(rule, names)
    case 'anchor':
      return [`anchor "${rule.path}"`, ...matchers(rule, names), ...tail(rule)].join(' ')
    case 'filter': {
      const words = [rule.action === 'pass' ? 'pass' : `block ${rule.action}`]
      const { routeTo } = rule
      const route = routeTo === undefined ? [] : [`route-to (${routeTo.on} ${routeTo.address})`]
      words.push(...matchers(rule, names, route), ...tail(rule))
      if (rule.action === 'pass') words.push(rule.state === 'none' ? 'no state' : 'keep state')
      if (rule.label !== undefined) words.push(`label "${rule.label}"`)
      return words.join(' ')
    }
  }
}

function formatRdr(rule: RdrRule, names: ReadonlyMap<number, string>): string {
  const { target } = rule
  return [
    ...(rule.negated ? ['no'] : []),
    'rdr',
    ...(rule.pass ? ['pass'] : []),
    ...matchers(rule, names),
    ...(target === undefined ? [] : ['->', target.address]),
    ...(target?.port === undefined ? [] : ['port', String(target.port)]),
  ].join(' ')
}

function matchers(
  rule: Matchers,
  names: ReadonlyMap<number, string>,
  route: string[] = [],
): string[] {
  const words: string[] = []
  if (rule.direction !== undefined) words.push(rule.direction)
  if (rule.log !== undefined) words.push(rule.log)
  if (rule.quick) words.push('quick')
  if (rule.on !== undefined) words.push('on', ...(rule.on.not ? ['!'] : []), rule.on.name)
  words.push(...route)
  if (rule.family !== undefined) words.push(rule.family === 4 ? 'inet' : 'inet6')
  if (rule.proto !== undefined) words.push('proto', rule.proto)
  if (isAll(rule.from) && isAll(rule.to)) words.push('all')
  else words.push('from', end(rule.from, names), 'to', end(rule.to, names))
  return words
}

function tail(rule: Matchers & { readonly state?: 'none' | 'keep' }): string[] {
  const words: string[] = []
  if (rule.user !== undefined) words.push('user', test(rule.user))
  const { flags } = rule
  if (flags !== undefined && flags.mask !== '') words.push('flags', `${flags.set}/${flags.mask}`)
  else if (flags !== undefined && rule.state === 'keep') words.push('flags any')
  return words
}

function isAll({ host, port, not }: End): boolean {
  return host.kind === 'any' && port === undefined && !not
}

function end({ host, port, not }: End, names: ReadonlyMap<number, string>): string {
  const words = not ? ['!'] : []
  if (host.kind === 'any') words.push('any')
  else if (host.kind === 'table') words.push(`<${host.name}>`)
  else {
    const whole = host.prefix === (host.family === 4 ? 32 : 128)
    words.push(whole ? host.address : `${host.address}/${String(host.prefix)}`)
  }
  if (port !== undefined) {
    const name = port.op === '=' || port.op === '!=' ? names.get(port.a) : undefined
    words.push('port', name === undefined ? test(port) : `${port.op} ${name}`)
  }
  return words.join(' ')
}

function test({ op, a, b }: NumberTest): string {
  if (op === ':') return `${String(a)}:${String(b)}`
  return b === undefined ? `${op} ${String(a)}` : `${String(a)} ${op} ${String(b)}`
}
