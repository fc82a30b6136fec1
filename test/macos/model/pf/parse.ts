/**
 * A strict parser of pf.conf text, from the BNF of pf.conf(5) as OpenBSD 4.3 and macOS have it: whatever
 * it does not know is a syntax error. Written from the manual, apart from the printer it judges.
 */
import { isIPv4, isIPv6 } from 'node:net'
import {
  noUid,
  type End,
  type FilterRule,
  type Host,
  type Matchers,
  type NumberTest,
  type Parsed,
  type Statement,
  type Table,
} from './ast.js'
import { isReserved, lex, PfSyntaxError, type Token } from './lex.js'

export interface ParseEnvironment {
  /** Names that resolve when a rule or table is loaded. */
  readonly hosts: ReadonlyMap<string, readonly string[]>
  readonly users: ReadonlyMap<string, number>
}

const services = new Map([
  ['ssh', 22],
  ['smtp', 25],
  ['domain', 53],
  ['http', 80],
  ['https', 443],
])
const protocols = new Set(['tcp', 'udp', 'icmp', 'icmp6', 'ipv6-icmp', 'igmp', 'esp', 'gre'])
const sections = ['options', 'normalization', 'queueing', 'translation', 'filtering'] as const
const maxPort = 65_535

export function parsePf(text: string, environment: ParseEnvironment): Parsed {
  return new Parser(lex(text), environment).file()
}

class Parser {
  #at = 0
  #section = 0
  readonly #macros = new Map<string, string>()
  readonly #tables: Table[] = []
  readonly #statements: Statement[] = []
  readonly #warnings: string[] = []
  readonly #tokens: Token[]
  readonly #environment: ParseEnvironment

  constructor(tokens: Token[], environment: ParseEnvironment) {
    this.#tokens = tokens
    this.#environment = environment
  }

  file(): Parsed {
    while (this.#at < this.#tokens.length) {
      if (this.#peek()?.kind === 'newline') {
        this.#at++
        continue
      }
      this.#line()
      if (this.#next().kind !== 'newline') throw this.#error()
    }
    return { tables: this.#tables, statements: this.#statements, warnings: this.#warnings }
  }

  #line(): void {
    const first = this.#next()
    const after = this.#peek()
    if (first.kind === 'word' && after?.kind === 'op' && after.text === '=')
      return this.#macro(first)
    if (first.kind !== 'word') throw this.#error()
    switch (first.text) {
      case 'set':
        return this.#opaque('set', 'options', 'options')
      case 'scrub':
      case 'scrub-anchor':
        return this.#opaque(first.text, 'normalization', 'normalization')
      case 'nat-anchor':
      case 'rdr-anchor':
      case 'nat':
        return this.#opaque(first.text, 'translation', 'translation')
      case 'dummynet-anchor':
        return this.#opaque(first.text, 'dummynet', 'translation')
      case 'load':
        // `load anchor X from FILE`: done by pfctl after the load, keeps no rule of its own.
        while (this.#peek()?.kind !== 'newline') this.#next()
        return
      case 'table':
        return this.#table()
      case 'no':
      case 'rdr':
        return this.#rdr(first.text === 'no')
      case 'anchor':
        return this.#anchor()
      case 'pass':
      case 'block':
        return this.#filter(first.text)
      default:
        throw this.#error()
    }
  }

  #macro(name: Token): void {
    this.#next()
    const value = this.#next()
    if (value.kind === 'newline' || value.kind === 'op') throw this.#error()
    this.#macros.set(name.text, value.text)
  }

  #enter(section: (typeof sections)[number]): void {
    const index = sections.indexOf(section)
    if (index < this.#section)
      throw this.#error(
        'Rules must be in order: options, normalization, queueing, translation, filtering',
      )
    this.#section = index
  }

  #opaque(
    word: string,
    section: 'options' | 'normalization' | 'translation' | 'dummynet',
    order: (typeof sections)[number],
  ): void {
    this.#enter(order)
    const words = [word]
    while (this.#peek()?.kind !== 'newline') {
      const token = this.#next()
      words.push(token.kind === 'string' ? `"${token.text}"` : token.text)
    }
    if (words.length === 1) throw this.#error()
    this.#statements.push({ kind: 'other', section, text: words.join(' ') })
  }

  #table(): void {
    this.#expect('<')
    const name = this.#word()
    if (name.length > 31) throw this.#error('table name too long, max 31 chars')
    if (!/^[A-Za-z0-9_.-]+$/.test(name)) throw this.#error()
    this.#expect('>')
    let persist = false
    let constant = false
    let entries: string[] | undefined
    while (this.#peek()?.kind !== 'newline') {
      if (this.#accept('persist')) persist = true
      else if (this.#accept('const')) constant = true
      else if (this.#accept('counters')) continue
      else if (this.#accept('{')) entries = [...(entries ?? []), ...this.#tableEntries()]
      else throw this.#error()
    }
    this.#tables.push({ name, persist, constant, ...(entries === undefined ? {} : { entries }) })
  }

  #tableEntries(): string[] {
    const entries: string[] = []
    this.#skipNewlines()
    while (!this.#accept('}')) {
      const not = this.#accept('!')
      for (const host of this.#literal(false)) entries.push(`${not ? '!' : ''}${netText(host)}`)
      // A comma must be followed by the next entry on the same line.
      if (this.#accept(',')) {
        if (this.#peek()?.kind === 'newline') throw this.#error()
      } else this.#skipNewlines()
    }
    return entries
  }

  #filter(word: 'pass' | 'block'): void {
    this.#enter('filtering')
    let action: FilterRule['action'] = word === 'pass' ? 'pass' : 'drop'
    if (word === 'block' && this.#accept('return')) action = 'return'
    else if (word === 'block') this.#accept('drop')
    const head = this.#head()
    let routeTo: FilterRule['routeTo']
    if (this.#accept('route-to')) {
      this.#expect('(')
      const on = this.#word()
      const address = this.#word()
      this.#expect(')')
      if (head.direction === undefined)
        throw this.#error('direction must be explicit with rules that specify routing')
      routeTo = { on, address }
    }
    const { families, protos, ends } = this.#where()
    const hop = routeTo === undefined ? undefined : familyOf(routeTo.address)
    if (hop !== undefined && families.some((family) => family !== undefined && family !== hop))
      throw this.#error('no routing address with matching address family found.')
    const options = this.#options()
    if (action !== 'pass' && options.state === 'keep')
      throw this.#error("keep state on block rules doesn't make sense")
    if (
      options.flags !== undefined &&
      protos.some((proto) => proto !== undefined && proto !== 'tcp')
    )
      throw this.#error('flags only apply to tcp')
    const state = options.state ?? (action === 'pass' ? 'keep' : 'none')
    let expanded = 0
    for (const on of head.on)
      for (const family of families)
        for (const proto of protos)
          for (const [from, to] of ends)
            for (const user of options.users) {
              const matchers = this.#matchers(head, on, family, proto, from, to, user, options)
              if (matchers === undefined) continue
              expanded++
              this.#statements.push({
                kind: 'filter',
                action,
                ...matchers,
                // Since OpenBSD 4.1 a stateful pass of TCP starts at SYN, unless flags are given.
                ...(action === 'pass' &&
                state === 'keep' &&
                options.flags === undefined &&
                (proto ?? 'tcp') === 'tcp'
                  ? { flags: { set: 'S', mask: 'SA' } }
                  : {}),
                ...(routeTo === undefined ? {} : { routeTo }),
                state,
              })
            }
    if (expanded === 0) throw this.#error('rule expands to no valid combination')
  }

  #anchor(): void {
    this.#enter('filtering')
    const name = this.#next()
    if (name.kind !== 'string' && name.kind !== 'word') throw this.#error()
    if (name.text.split('/').some((part) => part.startsWith('_')))
      throw this.#error("anchor names beginning with '_' are reserved for internal use")
    const head = this.#head()
    const { families, protos, ends } = this.#where()
    const options = this.#options()
    for (const on of head.on)
      for (const family of families)
        for (const proto of protos)
          for (const [from, to] of ends)
            for (const user of options.users) {
              const matchers = this.#matchers(head, on, family, proto, from, to, user, options)
              if (matchers !== undefined)
                this.#statements.push({ kind: 'anchor', path: name.text, ...matchers })
            }
  }

  #rdr(negated: boolean): void {
    this.#enter('translation')
    if (negated) this.#expect('rdr')
    const pass = this.#accept('pass')
    const on = this.#interfaces()
    const { families, protos, ends } = this.#where()
    let target: { address: string; port?: number } | undefined
    if (this.#accept('->')) {
      const address = this.#word()
      target = { address }
      if (this.#accept('port')) target = { address, port: this.#portNumber() }
    }
    if (negated === (target !== undefined)) throw this.#error()
    const to = target === undefined ? undefined : familyOf(target.address)
    if (to !== undefined && families.some((family) => family !== undefined && family !== to))
      throw this.#error('no translation address with matching address family found.')
    for (const [, { port }] of ends)
      if (port !== undefined && port.op !== '=' && port.op !== ':')
        throw this.#error('invalid port operator for rdr destination port')
    const options = { users: [undefined] }
    const head = { on, quick: false }
    for (const each of on)
      for (const family of families)
        for (const proto of protos)
          for (const [from, to] of ends) {
            const matchers = this.#matchers(head, each, family, proto, from, to, undefined, options)
            if (matchers !== undefined)
              this.#statements.push({
                kind: 'rdr',
                negated,
                pass,
                ...matchers,
                ...(target === undefined ? {} : { target }),
              })
          }
  }

  /** [in|out] [log [(...)]] [quick] [on IF]: in this order only. */
  #head(): Head {
    const direction = this.#accept('in') ? 'in' : this.#accept('out') ? 'out' : undefined
    let log: string | undefined
    if (this.#accept('log')) {
      log = 'log'
      if (this.#accept('(')) {
        const words = [this.#word()]
        while (!this.#accept(')')) words.push(this.#word())
        if (!['all', 'user'].includes(words[0] ?? '') && words[0] !== 'to') throw this.#error()
        log = `log (${words.join(' ')})`
      }
    }
    const quick = this.#accept('quick')
    return {
      on: this.#interfaces(),
      quick,
      ...(direction === undefined ? {} : { direction }),
      ...(log === undefined ? {} : { log }),
    }
  }

  #interfaces(): On[] {
    if (!this.#accept('on')) return [undefined]
    return this.#list(() => ({ not: this.#accept('!'), name: this.#word() }))
  }

  #where(): {
    families: (4 | 6 | undefined)[]
    protos: (string | undefined)[]
    ends: [End, End][]
  } {
    const families = [this.#accept('inet') ? 4 : this.#accept('inet6') ? 6 : undefined] as const
    const protos = this.#accept('proto')
      ? this.#list(() => {
          const proto = this.#word()
          if (!protocols.has(proto) && !/^\d+$/.test(proto)) throw this.#error()
          return proto === 'icmp6' ? 'ipv6-icmp' : proto
        })
      : [undefined]
    let ends: [End, End][] = [[anyEnd, anyEnd]]
    if (!this.#accept('all')) {
      const from = this.#accept('from') ? this.#end() : undefined
      const to = this.#accept('to') ? this.#end() : undefined
      if (from === undefined && to === undefined && this.#peek()?.text === 'port')
        throw this.#error()
      ends = (from ?? [anyEnd]).flatMap((a) => (to ?? [anyEnd]).map((b): [End, End] => [a, b]))
    }
    for (const [from, to] of ends)
      if (from.port !== undefined || to.port !== undefined)
        if (protos.some((proto) => proto !== 'tcp' && proto !== 'udp'))
          throw this.#error('port only applies to tcp/udp')
    return { families: [...families], protos, ends }
  }

  #end(): End[] {
    const hosts: { not: boolean; host: Host }[] =
      this.#peek()?.text === 'port' ? [{ not: false, host: { kind: 'any' } }] : this.#hosts()
    const ports = this.#accept('port') ? this.#list(() => this.#portTest()) : [undefined]
    return hosts.flatMap((host) =>
      ports.map((port) => ({ ...host, ...(port === undefined ? {} : { port }) })),
    )
  }

  #hosts(): { not: boolean; host: Host }[] {
    if (this.#accept('any')) return [{ not: false, host: { kind: 'any' } }]
    return this.#list(() => {
      const not = this.#accept('!')
      if (this.#accept('<')) {
        const name = this.#word()
        this.#expect('>')
        return [{ not, host: { kind: 'table' as const, name } }]
      }
      return this.#literal(true).map((host) => ({ not, host }))
    }).flat()
  }

  /** An address, a CIDR, or a name that is resolved here and now. */
  #literal(inRule: boolean): Extract<Host, { kind: 'net' }>[] {
    const text = this.#word()
    let prefix: number | undefined
    if (this.#accept('/')) {
      const token = this.#next()
      if (token.kind !== 'number') throw this.#error()
      prefix = Number(token.text)
    }
    const literal = isIPv4(text) ? 4 : isIPv6(text) ? 6 : undefined
    if (literal !== undefined) {
      const most = literal === 4 ? 32 : 128
      if (prefix !== undefined && prefix > most) throw this.#error()
      return [{ kind: 'net', family: literal, address: text, prefix: prefix ?? most }]
    }
    if (!/^[A-Za-z0-9.-]+$/.test(text)) throw this.#error()
    const found = this.#environment.hosts.get(text)
    if (found === undefined) throw this.#error(`no IP address found for ${text}${inRule ? '' : ''}`)
    return found.map((address) => {
      const family = isIPv4(address) ? 4 : 6
      return { kind: 'net', family, address, prefix: family === 4 ? 32 : 128 }
    })
  }

  #options(): Options {
    const options: { -readonly [K in keyof Options]: Options[K] } = { users: [undefined] }
    const seen = new Set<string>()
    for (;;) {
      const token = this.#peek()
      if (token?.kind !== 'word') return options
      if (token.text === 'user') {
        this.#once(seen, 'user')
        options.users = this.#list(() => this.#userTest())
      } else if (token.text === 'flags') {
        this.#once(seen, 'flags')
        options.flags = this.#flags()
      } else if (token.text === 'label') {
        if (seen.has('label')) throw this.#error('label cannot be redefined')
        this.#once(seen, 'label')
        const label = this.#next()
        if ((label.kind !== 'string' && label.kind !== 'word') || isReserved(label))
          throw this.#error()
        if (label.text.length > 63) throw this.#error('rule label too long (max 63 chars)')
        options.label = label.text
      } else if (token.text === 'keep' || token.text === 'no') {
        this.#once(seen, 'state')
        this.#expect('state')
        options.state = token.text === 'no' ? 'none' : 'keep'
      } else throw this.#error()
    }
  }

  #once(seen: Set<string>, what: string): void {
    this.#next()
    if (seen.has(what)) throw this.#error()
    seen.add(what)
  }

  #flags(): { set: string; mask: string } {
    if (this.#accept('any')) return { set: '', mask: '' }
    const slash = this.#peek()
    const set = slash?.text === '/' ? '' : this.#word()
    this.#expect('/')
    const mask = this.#word()
    if (!/^[FSRPAUEW]*$/.test(set) || !/^[FSRPAUEW]+$/.test(mask)) throw this.#error()
    if ([...set].some((flag) => !mask.includes(flag))) throw this.#error('flags always false')
    return { set, mask }
  }

  #userTest(): NumberTest {
    const op = this.#operator()
    const a = this.#uid()
    const binary = this.#peek()
    if (op === undefined && (binary?.text === '><' || binary?.text === '<>')) {
      this.#next()
      return { op: binary.text, a, b: this.#uid() }
    }
    return { op: op ?? '=', a }
  }

  #uid(): number {
    const token = this.#next()
    if (token.kind === 'number') {
      if (Number(token.text) < 0 || Number(token.text) >= noUid)
        throw this.#error(`illegal uid value ${token.text}`)
      return Number(token.text)
    }
    if (token.kind !== 'word') throw this.#error()
    if (token.text === 'unknown') return noUid
    const uid = this.#environment.users.get(token.text)
    if (uid === undefined) throw this.#error(`unknown user ${token.text}`)
    return uid
  }

  #portTest(): NumberTest {
    const op = this.#operator()
    const token = this.#peek()
    const range = token?.kind === 'word' ? /^([^:]+):([^:]+)$/.exec(token.text) : null
    if (op === undefined && range !== null) {
      this.#next()
      return { op: ':', a: this.#portValue(range[1] ?? ''), b: this.#portValue(range[2] ?? '') }
    }
    const a = this.#portNumber()
    const binary = this.#peek()
    if (op === undefined && (binary?.text === '><' || binary?.text === '<>')) {
      this.#next()
      return { op: binary.text, a, b: this.#portNumber() }
    }
    return { op: op ?? '=', a }
  }

  #operator(): '=' | '!=' | '<' | '<=' | '>' | '>=' | undefined {
    for (const op of ['=', '!=', '<=', '>=', '<', '>'] as const) if (this.#accept(op)) return op
    return undefined
  }

  #portNumber(): number {
    return this.#portValue(this.#word())
  }

  #portValue(text: string): number {
    const port = /^\d+$/.test(text) ? Number(text) : services.get(text)
    if (port === undefined) throw this.#error(`unknown port ${text}`)
    if (port > maxPort) throw this.#error(`illegal port value ${text}`)
    return port
  }

  #matchers(
    head: Head,
    on: On,
    family: 4 | 6 | undefined,
    proto: string | undefined,
    from: End,
    to: End,
    user: NumberTest | undefined,
    options: Options,
  ): Matchers | undefined {
    // A literal gives the rule its family; two of different families are no valid combination.
    let resolved = family
    for (const { host } of [from, to]) {
      if (host.kind !== 'net') continue
      if (resolved !== undefined && resolved !== host.family) return undefined
      resolved = host.family
    }
    return {
      quick: head.quick,
      from,
      to,
      ...(head.direction === undefined ? {} : { direction: head.direction }),
      ...(head.log === undefined ? {} : { log: head.log }),
      ...(on === undefined ? {} : { on }),
      ...(resolved === undefined ? {} : { family: resolved }),
      ...(proto === undefined ? {} : { proto }),
      ...(user === undefined ? {} : { user }),
      ...(options.flags === undefined ? {} : { flags: options.flags }),
      ...(options.label === undefined ? {} : { label: options.label }),
    }
  }

  #list<T>(item: () => T): T[] {
    if (!this.#accept('{')) return [item()]
    const items: T[] = []
    this.#skipNewlines()
    while (!this.#accept('}')) {
      items.push(item())
      if (this.#accept(',')) {
        if (this.#peek()?.kind === 'newline') throw this.#error()
      } else this.#skipNewlines()
    }
    if (items.length === 0) throw this.#error()
    return items
  }

  #skipNewlines(): void {
    while (this.#peek()?.kind === 'newline') this.#at++
  }

  #peek(): Token | undefined {
    return this.#tokens[this.#at]
  }

  #next(): Token {
    const token = this.#tokens[this.#at++]
    if (token === undefined) throw this.#error()
    return this.#expanded(token)
  }

  #expanded(token: Token): Token {
    if (token.kind !== 'word' || !token.text.startsWith('$')) return token
    const value = this.#macros.get(token.text.slice(1))
    if (value === undefined) throw this.#error(`macro '${token.text.slice(1)}' not defined`)
    return { ...token, text: value }
  }

  #accept(text: string): boolean {
    const token = this.#peek()
    if (token === undefined || token.kind === 'string' || token.text !== text) return false
    this.#at++
    return true
  }

  #expect(text: string): void {
    if (!this.#accept(text)) throw this.#error()
  }

  #word(): string {
    const token = this.#next()
    if ((token.kind !== 'word' && token.kind !== 'number') || isReserved(token)) throw this.#error()
    return token.text
  }

  #error(message?: string): PfSyntaxError {
    const token = this.#tokens[Math.min(this.#at, this.#tokens.length) - 1]
    return new PfSyntaxError(token?.line ?? 1, message)
  }
}

type On = { readonly not: boolean; readonly name: string } | undefined
interface Head {
  readonly on: On[]
  readonly quick: boolean
  readonly direction?: 'in' | 'out'
  readonly log?: string
}
interface Options {
  readonly users: (NumberTest | undefined)[]
  readonly flags?: { readonly set: string; readonly mask: string }
  readonly label?: string
  readonly state?: 'none' | 'keep'
}

const anyEnd: End = { not: false, host: { kind: 'any' } }

function familyOf(address: string): 4 | 6 {
  return address.includes(':') ? 6 : 4
}

function netText({ family, address, prefix }: Extract<Host, { kind: 'net' }>): string {
  return prefix === (family === 4 ? 32 : 128) ? address : `${address}/${String(prefix)}`
}
