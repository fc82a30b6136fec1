/**
 * What nftables does with a locally sent packet, from nft(8): the base chains of a hook in order of priority, where
 * `accept` ends one chain and `drop` or `reject` ends all; jumps, verdict maps, sets, packet and connection marks.
 * It takes rules as data and knows nothing of the printer, nor of what the rules are for.
 */
import type { Expression, Rule, Statement, Table } from '../../lib/backend/nftables/ast.js'
import { inNet } from './model/pf/eval.js'

/** One connection as conntrack keeps it. */
export interface Connection {
  mark: number
  /** Where a redirect leads its packets. */
  redirected: { readonly address: string; readonly port: number } | undefined
  isNew: boolean
}

/** One packet, as the output hooks see it. */
export interface NftPacket {
  /** Owner of the sending socket. */
  readonly uid: number | undefined
  readonly oif: string
  readonly proto: 'tcp' | 'udp'
  readonly from: string
  readonly fromPort: number
  readonly to: string
  readonly toPort: number
  readonly direction: 'original' | 'reply'
}

export type NftVerdict = 'accept' | 'drop' | 'reject'

/** The tables of a host, with what their sets hold. */
export class NftHost {
  readonly #tables: readonly Table[]
  /** table, set -> elements; a map's lead to a chain. */
  readonly #elements = new Map<string, Map<string, string | undefined>>()

  constructor(tables: readonly Table[]) {
    this.#tables = tables
    for (const table of tables)
      for (const { set, key, verdict } of table.elements) this.add(table.name, set, key, verdict)
  }

  add(table: string, set: string, key: readonly (string | number)[], verdict?: string): void {
    const name = `${table} ${set}`
    const elements = this.#elements.get(name) ?? new Map<string, string | undefined>()
    this.#elements.set(name, elements.set(key.join(' . '), verdict))
  }

  /** All output hooks; a redirect is made for a connection's first packet and kept for the others. */
  output(packet: NftPacket, connection: Connection): NftVerdict {
    const run = new Run(this.#tables, this.#elements, packet, connection)
    return run.verdict()
  }
}

type End = NftVerdict | 'continue' | 'return'
type Value = string | number | readonly Value[] | undefined

class Run {
  readonly #tables: readonly Table[]
  readonly #elements: ReadonlyMap<string, Map<string, string | undefined>>
  readonly #connection: Connection
  #packet: NftPacket
  #mark = 0

  constructor(
    tables: readonly Table[],
    elements: ReadonlyMap<string, Map<string, string | undefined>>,
    packet: NftPacket,
    connection: Connection,
  ) {
    this.#tables = tables
    this.#elements = elements
    this.#packet = packet
    this.#connection = connection
  }

  verdict(): NftVerdict {
    const hooked = this.#tables.flatMap((table) =>
      table.chains.flatMap(({ name, hook }) =>
        hook?.hook === 'output' ? [{ table, name, ...hook }] : [],
      ),
    )
    for (const { table, name, type, policy } of hooked.sort((a, b) => a.prio - b.prio)) {
      if (type === 'nat' && !(this.#connection.isNew && this.#packet.direction === 'original'))
        continue
      const end = this.#chain(table, name)
      const verdict = end === 'continue' || end === 'return' ? policy : end
      if (verdict !== 'accept') return verdict
      if (type === 'nat') this.#redirect()
    }
    return 'accept'
  }

  /** Later hooks see where it goes now. */
  #redirect(): void {
    const { redirected } = this.#connection
    if (redirected !== undefined)
      this.#packet = { ...this.#packet, to: redirected.address, toPort: redirected.port }
  }

  #chain(table: Table, name: string): End {
    for (const rule of table.rules) {
      if (rule.chain !== name) continue
      const end = this.#rule(table, rule)
      if (end !== 'continue') return end
    }
    return 'continue'
  }

  #rule(table: Table, { expr }: Rule): End {
    for (const statement of expr) {
      const end = this.#statement(table, statement)
      // A match that fails ends the rule, not the chain.
      if (end === 'no match') return 'continue'
      if (end !== 'next') return end
    }
    return 'continue'
  }

  #statement(table: Table, statement: Statement): End | 'next' | 'no match' {
    if ('match' in statement) {
      const { op, left, right } = statement.match
      const value = this.#value(left)
      if (value === undefined) return 'no match'
      const fits = this.#fits(table, value, right, op === 'in')
      return fits === (op !== '!=') ? 'next' : 'no match'
    }
    if ('accept' in statement) return 'accept'
    if ('drop' in statement) return 'drop'
    if ('return' in statement) return 'return'
    if ('reject' in statement) return 'reject'
    if ('jump' in statement) {
      const end = this.#chain(table, statement.jump.target)
      return end === 'continue' || end === 'return' ? 'next' : end
    }
    if ('goto' in statement) return this.#goto(table, statement.goto.target)
    if ('vmap' in statement) {
      const value = this.#value(statement.vmap.key)
      if (value === undefined) return 'no match'
      const target = this.#elements.get(`${table.name} ${statement.vmap.data.slice(1)}`)
      const chain = target?.get(keyOf(value))
      return chain === undefined ? 'next' : this.#goto(table, chain)
    }
    if ('set' in statement) {
      const value = this.#value(statement.set.elem)
      // Not for this family: the expression cannot be read from the packet.
      if (value === undefined) return 'no match'
      const name = `${table.name} ${statement.set.set.slice(1)}`
      this.#elements.get(name)?.set(keyOf(value), undefined)
      return 'next'
    }
    if ('mangle' in statement) {
      const { key, value } = statement.mangle
      if (typeof key === 'object' && 'ct' in key) this.#connection.mark = value
      else this.#mark = value
      return 'next'
    }
    if ('redirect' in statement) {
      const address = this.#packet.to.includes(':') ? '::1' : '127.0.0.1'
      this.#connection.redirected = {
        address,
        port: statement.redirect.port,
      }
      return 'accept'
    }
    return 'next'
  }

  /** Without a way back: its end is that of the chain it came from, whose caller goes on. */
  #goto(table: Table, chain: string): End {
    const end = this.#chain(table, chain)
    return end === 'continue' ? 'return' : end
  }

  #value(expression: Expression): Value {
    const { uid, oif, proto, from, fromPort, to, toPort, direction } = this.#packet
    if (typeof expression !== 'object') return expression
    // No time passes between the packets of one evaluation.
    if ('elem' in expression) return this.#value(expression.elem.val)
    if ('meta' in expression) {
      const family = to.includes(':') ? 'ipv6' : 'ipv4'
      const values = { skuid: uid, oifname: oif, iifname: '', l4proto: proto, nfproto: family }
      return expression.meta.key === 'mark' ? this.#mark : values[expression.meta.key]
    }
    if ('payload' in expression) {
      const { protocol, field } = expression.payload
      if (protocol === 'ip' || protocol === 'ip6') {
        if ((protocol === 'ip6') !== to.includes(':')) return undefined
        return field === 'daddr' ? to : from
      }
      if (protocol !== 'th' && protocol !== proto) return undefined
      return field === 'dport' ? toPort : fromPort
    }
    if ('ct' in expression && !('dir' in expression.ct)) {
      const status = this.#connection.redirected === undefined ? '' : 'dnat'
      const state = this.#connection.isNew ? 'new' : 'established'
      return { mark: this.#connection.mark, status, direction, state }[expression.ct.key]
    }
    if ('&' in expression) {
      const [of, mask] = expression['&']
      const value = this.#value(of)
      return typeof value === 'number' ? (value & mask) >>> 0 : undefined
    }
    if ('concat' in expression) {
      const parts = expression.concat.map((part) => this.#value(part))
      return parts.includes(undefined) ? undefined : parts
    }
    throw new Error(`no value of a packet: ${JSON.stringify(expression)}`)
  }

  #fits(table: Table, value: Value, right: Expression, isFlag: boolean): boolean {
    if (typeof right === 'string' && right.startsWith('@'))
      return this.#elements.get(`${table.name} ${right.slice(1)}`)?.has(keyOf(value)) === true
    if (typeof right !== 'object') return isFlag ? value === right && value !== '' : value === right
    if ('range' in right)
      return typeof value === 'number' && value >= right.range[0] && value <= right.range[1]
    if ('prefix' in right)
      return (
        typeof value === 'string' &&
        inNet(value, `${right.prefix.addr}/${String(right.prefix.len)}`)
      )
    if ('set' in right) return right.set.some((one) => this.#fits(table, value, one, false))
    throw new Error(`nothing to compare with: ${JSON.stringify(right)}`)
  }
}

function keyOf(value: Value): string {
  return Array.isArray(value) ? value.join(' . ') : String(value)
}
