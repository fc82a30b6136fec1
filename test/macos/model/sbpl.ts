/**
 * The profile language of seatbelt, as far as agentjail's profiles use it: a strict reader of its expressions and
 * the verdict on one operation. The last rule that matches decides; unknown operations and filters are errors.
 */
type Expression = string | Expression[]

export interface Attempt {
  readonly operation: string
  readonly path?: string
  readonly service?: string
  /** `tcp`, `udp` or something else that has no ports. */
  readonly proto?: string
  readonly host?: string
  readonly port?: number
  readonly target?: 'same-sandbox' | 'others' | 'self'
}

const operations = new Set([
  ...['default', 'signal', 'process-info*', 'mach-priv-task-port', 'process-exec*', 'process-fork'],
  ...['job-creation', 'system-privilege', 'mach-lookup', 'appleevent-send', 'lsopen', 'network*'],
  ...['network-outbound', 'network-inbound', 'network-bind', 'file-read*', 'file-write*'],
  ...['file-read-metadata', 'file-write-setugid'],
])

interface Rule {
  readonly verdict: string
  readonly operation: string
  readonly filters: readonly Expression[]
}

export class Profile {
  readonly #rules: readonly Rule[]

  constructor(text: string) {
    const [version, ...rules] = parse(text)
    if (JSON.stringify(version) !== '["version","1"]')
      throw new Error('(version 1) must come first')
    this.#rules = rules.map((each): Rule => {
      if (!Array.isArray(each)) throw new Error(`unexpected ${each}`)
      const [verdict, operation, ...filters] = each
      if (verdict !== 'allow' && verdict !== 'deny')
        throw new Error(`unbound variable: ${String(verdict)}`)
      if (typeof operation !== 'string' || !operations.has(operation))
        throw new Error(`unbound variable: ${String(operation)}`)
      for (const filter of filters) matches(filter, { operation: '' })
      return { verdict, operation, filters }
    })
  }

  allows(attempt: Attempt): boolean {
    let verdict = 'deny'
    for (const { verdict: said, operation, filters } of this.#rules) {
      const isNamed =
        operation === 'default' ||
        operation === attempt.operation ||
        (operation.endsWith('*') && attempt.operation.startsWith(operation.slice(0, -1)))
      if (isNamed && (filters.length === 0 || filters.some((filter) => matches(filter, attempt))))
        verdict = said
    }
    return verdict === 'allow'
  }
}

function matches(filter: Expression, attempt: Attempt): boolean {
  if (!Array.isArray(filter)) throw new Error(`unexpected ${filter}`)
  const [kind, value, extra] = filter
  if (typeof kind !== 'string' || typeof value !== 'string') throw new Error('not a filter')
  switch (kind) {
    case 'literal':
      return attempt.path === text(value)
    case 'subpath': {
      const top = text(value)
      if (!top.startsWith('/') || (top.length > 1 && top.endsWith('/')))
        throw new Error(`subpath: ${top}`)
      return attempt.path === top || attempt.path?.startsWith(`${top}/`) === true
    }
    case 'regex':
      if (!value.startsWith('#"')) throw new Error('regex needs #"…"')
      return attempt.path !== undefined && new RegExp(value.slice(2, -1)).test(attempt.path)
    case 'global-name':
      return attempt.service === text(value)
    case 'target':
      return attempt.target === value
    case 'remote':
    case 'local': {
      if (!['tcp', 'udp', 'ip'].includes(value) || typeof extra !== 'string')
        throw new Error(`${kind} ${value}`)
      const match = /^(\*|localhost):(\*|\d{1,5})$/.exec(text(extra))
      // Only these two hosts are known to the language.
      if (match === null)
        throw new Error(`host must be * or localhost in network address: ${extra}`)
      if (value !== 'ip' && attempt.proto !== value) return false
      if (attempt.port === undefined || (match[2] !== '*' && Number(match[2]) !== attempt.port))
        return false
      return match[1] === '*' || ['127.0.0.1', '::1'].includes(attempt.host ?? '')
    }
    default:
      throw new Error(`unbound variable: ${kind}`)
  }
}

function text(quoted: string): string {
  if (!/^"(?:[^"\\]|\\.)*"$/.test(quoted)) throw new Error(`not a string: ${quoted}`)
  return quoted.slice(1, -1).replace(/\\(.)/g, '$1')
}

function parse(source: string): Expression[] {
  const tokens: string[] = []
  const token = /\s+|(#"(?:[^"\\]|\\.)*"|"(?:[^"\\]|\\.)*"|[()]|[^\s()"]+)/y
  while (token.lastIndex < source.length) {
    const start = token.lastIndex
    const found = token.exec(source)
    if (found === null)
      throw new Error(`cannot read the profile at ${source.slice(start, start + 40)}`)
    if (found[1] !== undefined) tokens.push(found[1])
  }
  let at = 0
  const list = (): Expression[] => {
    const items: Expression[] = []
    for (; at < tokens.length; at++) {
      const token = tokens[at] ?? ''
      if (token === ')') return items
      if (token === '(') {
        at++
        items.push(list())
        if (tokens[at] !== ')') throw new Error('missing )')
      } else items.push(token)
    }
    return items
  }
  const all = list()
  if (at < tokens.length) throw new Error('unexpected )')
  return all
}
