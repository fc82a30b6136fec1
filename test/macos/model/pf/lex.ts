/**
 * The tokens of pf.conf(5), after the grammar section of the manual and the lexer's known habits:
 * a word ends at ( ) { } < > ! = / # , or white space; `\` joins lines; a newline is a token.
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
    const word = /^[!-~]+?(?=[(){}<>!=/#,\s"]|$)/.exec(rest)
    if (word === null) throw new PfSyntaxError(line)
    const isNumber = /^\d+$/.test(word[0])
    tokens.push({ kind: isNumber ? 'number' : 'word', text: word[0], line })
    at += word[0].length
  }
  // pf's grammar has no end of file within a line: text without a final newline is an error.
  if (tokens.length > 0 && tokens.at(-1)?.kind !== 'newline') throw new PfSyntaxError(line)
  return tokens
}
