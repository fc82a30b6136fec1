/**
 * The tokens of pf.conf(5), after the grammar section of the manual and the lexer's known habits:
 * a word starts with a letter, a digit, `_` or `:` and ends at ( ) { } < > ! = / # , or white space; digits are a number
 * only before white space or ) , / } =; `\` joins lines; a newline is a token.
 * Part of the tests: written from the manual, shares nothing with lib/backend/pf.
 */
export interface Token {
  readonly kind: 'word' | 'number' | 'string' | 'op' | 'newline'
  readonly text: string
  readonly line: number
}

export class PfSyntaxError extends Error {
  readonly line: number
  constructor(line: number, message = 'syntax error') {
    super(message)
    this.line = line
  }
}

/** Words of the grammar: unquoted, they are no name of anything. */
const reserved = new Set(
  (
    'all allow-opts altq anchor antispoof any binat binat-anchor bitmask block block-policy code debug drop dscp ' +
    'dummynet dummynet-anchor dup-to extfilter extmap fastroute file fingerprints flags floating flush for fragment ' +
    'from global group hostid icmp-type icmp6-type if-bound in include inet inet6 keep label limit load log ' +
    'loginterface max max-mss min-ttl modulate nat nat-anchor no no-df no-route no-sync on optimization os out ' +
    'overload pass pipe port priority probability proto queue quick random random-id rdr rdr-anchor reassemble ' +
    'reply-to require-order return return-icmp return-icmp6 return-rst round-robin route route-to rtable rule ' +
    'ruleset-optimization sc scrub scrub-anchor set skip source-hash source-track state state-policy static-port ' +
    'sticky-address synproxy table tag tagged timeout to tos ttl urpf-failed user'
  ).split(' '),
)
export const isReserved = ({ kind, text }: Token): boolean => kind === 'word' && reserved.has(text)

const ops = ['->', '><', '<>', '<=', '>=', '!=', '(', ')', '{', '}', '<', '>', '!', '=', '/', ',']

export function lex(text: string): Token[] {
  const tokens: Token[] = []
  let line = 1
  let at = 0
  while (at < text.length) {
    const rest = text.slice(at)
    const space = /^(?:[ \t]|\\\n)+/.exec(rest)
    if (space !== null) {
      line += space[0].split('\n').length - 1
      at += space[0].length
      continue
    }
    if (rest.startsWith('#')) {
      const end = rest.indexOf('\n')
      at += end === -1 ? rest.length : end
      continue
    }
    if (rest.startsWith('\n')) {
      tokens.push({ kind: 'newline', text: '\n', line })
      line++
      at++
      continue
    }
    const quoted = /^"([^"\n]*)"/.exec(rest)
    if (quoted !== null) {
      tokens.push({ kind: 'string', text: quoted[1] ?? '', line })
      at += quoted[0].length
      continue
    }
    const op = ops.find((each) => rest.startsWith(each))
    if (op !== undefined) {
      tokens.push({ kind: 'op', text: op, line })
      at += op.length
      continue
    }
    const word = /^(?:[A-Za-z0-9_:][!-~]*?|\$\w+|-\d+)(?=[(){}<>!=/#,\s]|$)/.exec(rest)
    if (word === null) throw new PfSyntaxError(line)
    const isNumber = /^-?\d+(?=[),/}=\s]|$)/.exec(rest)?.[0] === word[0]
    tokens.push({ kind: isNumber ? 'number' : 'word', text: word[0], line })
    at += word[0].length
  }
  // pf's grammar has no end of file within a line: text without a final newline is an error.
  if (tokens.length > 0 && tokens.at(-1)?.kind !== 'newline') throw new PfSyntaxError(line)
  return tokens
}
