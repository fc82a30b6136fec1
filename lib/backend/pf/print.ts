/**
 * Prints pf rules: as a file for `pfctl -f`, and as `pfctl -sr` / `-sn` shows the same rules.
 * Invariant: the one place that makes pf text, from typed values only; out of range values throw.
 */
import { JailError } from '../../errors.js'
import type {
  PfAddress,
  PfEndpoint,
  PfPort,
  PfRedirect,
  PfRule,
  PfRuleset,
  PfTable,
  PfUser,
} from './types.js'

/** Text of the whole anchor for `pfctl -a ANCHOR -f -`. Ends in a newline, which pf's grammar demands. */
export function printRuleset(ruleset: PfRuleset): string {
  // Tables may stand anywhere; translation before filtering, or pfctl refuses the order.
  const lines = [
    ...ruleset.tables.map(printTable),
    ...ruleset.redirects.map(printRedirect),
    ...ruleset.rules.map((rule) => printRule(rule, 'file')),
  ]
  return lines.map((line) => `${line}\n`).join('')
}

/** The lines that `pfctl -a ANCHOR -sr` shows for these rules. */
export function listedRules(ruleset: PfRuleset): readonly string[] {
  return ruleset.rules.map((rule) => printRule(rule, 'listing'))
}

/** The lines that `pfctl -a ANCHOR -sn` shows for these redirects. */
export function listedRedirects(ruleset: PfRuleset): readonly string[] {
  return ruleset.redirects.map(printRedirect)
}

/** One line: a comma followed by a newline within the braces is a syntax error of pf's parser. */
function printTable(table: PfTable): string {
  const name = checkedTable(table.name)
  if (table.addresses === undefined) return `table <${name}> persist`
  const content = table.addresses.map(checkedAddress).join(', ')
  return `table <${name}> persist { ${content}${content === '' ? '' : ' '}}`
}

/** A filter rule in the order in which pfctl itself prints the parts. */
export function printRule(rule: PfRule, form: 'file' | 'listing'): string {
  checkRule(rule)
  const parts: string[] = [rule.action === 'block' ? 'block return' : 'pass', rule.direction]
  if (rule.log) parts.push('log')
  parts.push('quick')
  if (rule.interface !== undefined)
    parts.push(`on ${rule.interface.not ? '! ' : ''}${checkedInterface(rule.interface.name)}`)
  if (rule.routeTo !== undefined)
    parts.push(
      `route-to (${checkedInterface(rule.routeTo.interface)} ${checkedAddress(rule.routeTo.address)})`,
    )
  if (rule.family !== undefined) parts.push(familyWord(rule.family))
  parts.push(`proto ${rule.proto}`, printFromTo(rule.from, rule.to, form))
  if (rule.user !== undefined) parts.push(printUser(rule.user))
  // A stateless pass rule with `flags any` is listed without its flags.
  if (rule.flags !== undefined && !(form === 'listing' && rule.flags === 'any'))
    parts.push(`flags ${rule.flags}`)
  if (rule.state !== undefined) parts.push(rule.state === 'none' ? 'no state' : 'keep state')
  parts.push(`label "${checkedLabel(rule.label)}"`)
  return parts.join(' ')
}

/** A redirect; pfctl lists it as it was written. */
function printRedirect(redirect: PfRedirect): string {
  const { target } = redirect
  return [
    `rdr pass on ${checkedInterface(redirect.interface)}`,
    familyWord(redirect.family),
    `proto ${redirect.proto}`,
    printFromTo(redirect.from, redirect.to, 'file'),
    `-> ${checkedAddress(target.address)} port ${String(checkedPort(target.port))}`,
  ].join(' ')
}

function printFromTo(from: PfEndpoint, to: PfEndpoint, form: 'file' | 'listing'): string {
  const everything = [from, to].every((end) => end.address.kind === 'any' && end.port === undefined)
  if (everything && form === 'listing') return 'all'
  return `from ${printEndpoint(from)} to ${printEndpoint(to)}`
}

function printEndpoint(end: PfEndpoint): string {
  const port = end.port === undefined ? '' : ` port ${printPort(end.port)}`
  return printAddress(end.address) + port
}

function printAddress(address: PfAddress): string {
  switch (address.kind) {
    case 'any':
      return 'any'
    case 'table':
      return `${address.not ? '! ' : ''}<${checkedTable(address.name)}>`
    case 'cidr': {
      const { family, prefix } = address.cidr
      const whole = prefix === (family === 4 ? 32 : 128)
      return checkedAddress(
        whole ? address.cidr.address : `${address.cidr.address}/${String(prefix)}`,
      )
    }
  }
}

function printPort(port: PfPort): string {
  if (port.op === '=') return `= ${String(checkedPort(port.port))}`
  if (port.first >= port.last) throw bug('port range', `${String(port.first)}:${String(port.last)}`)
  return `${String(checkedPort(port.first))}:${String(checkedPort(port.last))}`
}

function printUser(user: PfUser): string {
  if (user.kind === 'is') return `user = ${String(checkedUid(user.uid))}`
  if (user.above + 1 >= user.below) throw bug('uid range', String(user.above))
  return `user ${String(checkedUid(user.above))} >< ${String(checkedUid(user.below))}`
}

function familyWord(family: 4 | 6): string {
  return family === 4 ? 'inet' : 'inet6'
}

function checkRule(rule: PfRule): void {
  if (rule.flags !== undefined && rule.proto !== 'tcp') throw bug('flags on', rule.proto)
  if ((rule.state !== undefined) !== (rule.action === 'pass')) throw bug('state on', rule.action)
  if (rule.routeTo !== undefined && (rule.direction !== 'out' || rule.action !== 'pass'))
    throw bug('route-to on', `${rule.action} ${rule.direction}`)
  for (const { address } of [rule.from, rule.to])
    // pfctl adds the family of a literal by itself: written out, the listing equals the file.
    if (address.kind === 'cidr' && address.cidr.family !== rule.family)
      throw bug('family of', address.cidr.address)
}

/** macOS pf knows no interface groups: `utun` or `utun+` parse and match nothing, so demand a unit. */
function checkedInterface(name: string): string {
  if (!/^[a-z]{1,11}\d{1,3}$/.test(name)) throw bug('interface', name)
  return name
}

function checkedTable(name: string): string {
  if (!/^[A-Za-z][A-Za-z0-9_.-]{0,30}$/.test(name)) throw bug('table name', name)
  return name
}

/** `$` would be expanded by pfctl, a quote would end the label. */
function checkedLabel(label: string): string {
  if (!/^[A-Za-z0-9:._-]{1,63}$/.test(label)) throw bug('label', label)
  return label
}

/** Literals only: a name would be resolved by pfctl at load, and an unknown one fails the whole load. */
function checkedAddress(address: string): string {
  if (!/^(\d{1,3}(\.\d{1,3}){3}|[0-9a-f]*:[0-9a-f:]*)(\/\d{1,3})?$/.test(address))
    throw bug('address', address)
  return address
}

function checkedPort(port: number): number {
  if (!Number.isInteger(port) || port < 1 || port > 65_535) throw bug('port', String(port))
  return port
}

/** pf on macOS takes UID_MAX (2147483647, <sys/syslimits.h>) for "no such user". */
function checkedUid(uid: number): number {
  if (!Number.isInteger(uid) || uid < 1 || uid >= 0x7fff_ffff) throw bug('uid', String(uid))
  return uid
}

function bug(what: string, value: string): JailError {
  return new JailError('BACKEND', `pf: refused to print the ${what} ${JSON.stringify(value)}`, {
    hint: 'this is a defect of agentjail: please report it with the policy that caused it',
  })
}
