/**
 * The one printer of nftables text. Everything it prints comes from typed data.
 * Invariant: flat commands only (`add rule ...`), one a line, so that a whole load is one transaction however it is fed.
 */
import type { Chain, Element, Expression, NamedSet, Statement, Table } from './ast.js'

/** Commands that make a table from nothing, in order; one transaction when fed to `nft -f -`. */
export function printTable(table: Table): string[] {
  const at = `inet ${table.name}`
  return [
    table.owner ? `add table ${at} { flags owner; }` : `add table ${at}`,
    ...table.counters.map((name) => `add counter ${at} ${name}`),
    ...table.chains.map((chain) => `add chain ${at} ${printChain(chain)}`),
    ...table.sets.map((set) => `add ${set.kind} ${at} ${printSet(set)}`),
    ...table.elements.map((element) => `add ${printElement(table.name, element)}`),
    ...table.rules.map(
      (rule) => `add rule ${at} ${rule.chain} ${rule.expr.map(printStatement).join(' ')}`,
    ),
  ]
}

function printChain(chain: Chain): string {
  if (chain.hook === undefined) return chain.name
  const { type, hook, prio, policy } = chain.hook
  return `${chain.name} { type ${type} hook ${hook} priority ${prio}; policy ${policy}; }`
}

function printSet(set: NamedSet): string {
  const type = `type ${set.type.join(' . ')}${set.to === undefined ? '' : ` : ${set.to}`};`
  const parts = [
    type,
    set.size === undefined ? '' : `size ${set.size};`,
    set.flags.length === 0 ? '' : `flags ${set.flags.join(',')};`,
    set.timeout === undefined ? '' : `timeout ${set.timeout}s;`,
    set.counter === true ? 'counter;' : '',
  ]
  return `${set.name} { ${parts.filter((part) => part !== '').join(' ')} }`
}

/** `element inet TABLE SET { KEY [timeout Ns] [: VERDICT] }`, to follow `add` or `delete`. */
export function printElement(table: string, element: Element): string {
  const timeout = element.timeout === undefined ? '' : ` timeout ${element.timeout}s`
  const verdict = element.verdict === undefined ? '' : ` : goto ${element.verdict}`
  return `element inet ${table} ${element.set} { ${element.key.join(' . ')}${timeout}${verdict} }`
}

/** One statement, as nft(8) writes it. */
function printStatement(statement: Statement): string {
  if ('match' in statement) {
    const { op, left, right } = statement.match
    const operator = op === '!=' ? '!= ' : ''
    return `${printExpression(left)} ${operator}${printExpression(right)}`
  }
  if ('accept' in statement) return 'accept'
  if ('drop' in statement) return 'drop'
  if ('return' in statement) return 'return'
  if ('jump' in statement) return `jump ${statement.jump.target}`
  if ('goto' in statement) return `goto ${statement.goto.target}`
  if ('reject' in statement) {
    return statement.reject.type === 'tcp reset'
      ? 'reject with tcp reset'
      : `reject with icmpx ${statement.reject.expr}`
  }
  if ('set' in statement)
    return `${statement.set.op} ${statement.set.set} { ${printElem(statement.set.elem)} }`
  if ('mangle' in statement)
    return `${printExpression(statement.mangle.key)} set ${statement.mangle.value}`
  if ('vmap' in statement)
    return `${printExpression(statement.vmap.key)} vmap ${statement.vmap.data}`
  if ('counter' in statement) return `counter name ${statement.counter}`
  if ('snat' in statement) {
    return `snat ${statement.snat.family} to ${printExpression(statement.snat.addr)}`
  }
  if ('dnat' in statement) return `dnat ${statement.dnat.family} to ${statement.dnat.addr}`
  return `redirect to :${statement.redirect.port}`
}

function printElem(expression: Expression): string {
  if (typeof expression === 'object' && 'elem' in expression) {
    return `${printExpression(expression.elem.val)} timeout ${expression.elem.timeout}s`
  }
  return printExpression(expression)
}

function printExpression(expression: Expression): string {
  if (typeof expression === 'number') return String(expression)
  if (typeof expression === 'string') return expression
  if ('meta' in expression) return `meta ${expression.meta.key}`
  if ('payload' in expression) return `${expression.payload.protocol} ${expression.payload.field}`
  if ('ct' in expression) {
    return 'dir' in expression.ct
      ? `ct ${expression.ct.dir} ${expression.ct.key}`
      : `ct ${expression.ct.key}`
  }
  if ('socket' in expression) return `socket cgroupv2 level ${expression.socket.level}`
  if ('path' in expression) return `"${expression.path}"`
  if ('concat' in expression) return expression.concat.map(printExpression).join(' . ')
  if ('&' in expression) return `${printExpression(expression['&'][0])} & ${expression['&'][1]}`
  if ('range' in expression) return `${expression.range[0]}-${expression.range[1]}`
  if ('prefix' in expression) return `${expression.prefix.addr}/${expression.prefix.len}`
  if ('elem' in expression) return printElem(expression)
  return `{ ${expression.set.map(printExpression).join(', ')} }`
}
