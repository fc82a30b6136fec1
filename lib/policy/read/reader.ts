/**
 * Typed access to a YAML document that remembers where everything stands.
 * Invariant: nothing is coerced and nothing is skipped: what is not of the wanted type is reported
 * with its line and column, and reading goes on, so that all mistakes are told at once.
 */
import { type LineCounter, type Node, isMap, isScalar, isSeq } from 'yaml'
import { type KeySet, keyHint, keys, unknownKey } from '../keys.js'
import { type Problem, isProblem, quote } from '../problem.js'
import { isSecretName, looksSecret } from '../secrets.js'
import type { Origin } from '../types.js'

export interface PolicyProblem extends Problem {
  readonly origin: Origin
}

/** A value with the place of its key (or of itself, in a list). `where` is its path: `network.allow[0]`. */
export interface Field {
  readonly value: Node | null
  readonly at: Node
  readonly where: string
}

/** Mistakes told of one file; a file with more is hopeless anyway. */
const maxProblems = 100

export class Reader {
  readonly problems: PolicyProblem[] = []
  readonly #file: string
  readonly #lines: LineCounter
  #told: ReadonlySet<string> = new Set()

  constructor(file: string, lines: LineCounter) {
    this.#file = file
    this.#lines = lines
  }

  originAt(offset: number): Origin {
    const { line, col } = this.#lines.linePos(offset)
    return { file: this.#file, line: Math.max(1, line), column: Math.max(1, col) }
  }

  origin(field: Field): Origin {
    return this.originAt((field.value ?? field.at).range?.[0] ?? 0)
  }

  /** What was reported so far is not worth a second word about the same value. */
  markTold(): void {
    this.#told = new Set(this.problems.map(({ origin }) => placeOf(origin)))
  }

  fail(origin: Origin, problem: string, hint: string): void {
    if (this.#told.has(placeOf(origin))) return
    if (this.problems.length < maxProblems) this.problems.push({ origin, problem, hint })
  }

  failAt(field: Field, problem: string, hint: string): void {
    this.fail(this.origin(field), problem, hint)
  }

  #wrongType(field: Field, wanted: string, example: string): undefined {
    this.failAt(field, `${field.where} ${kindOf(field.value)}`, `write ${wanted}${example}`)
  }

  /** The fields of a mapping, by key; unknown and repeated keys are reported. */
  map(field: Field, kind: KeySet): ReadonlyMap<string, Field> {
    const known: readonly string[] = keys[kind]
    return this.#pairs(field, (key, at, where) => {
      if (known.includes(key)) return true
      this.fail(at, unknownKey(key, where), keyHint(key, known))
      return false
    })
  }

  /** The fields of a mapping whose keys are the user's own words. */
  dictionary(field: Field): ReadonlyMap<string, Field> {
    return this.#pairs(field, (key, at, where) => {
      if (!['__proto__', 'constructor', 'prototype', ''].includes(key)) return true
      this.fail(at, `${quote(key)} can't be a key in ${where}`, 'choose another word')
      return false
    })
  }

  #pairs(
    field: Field,
    accept: (key: string, at: Origin, where: string) => boolean,
  ): ReadonlyMap<string, Field> {
    const found = new Map<string, Field>()
    if (!isMap(field.value)) {
      this.#wrongType(field, 'a mapping', ' (key: value)')
      return found
    }
    const lineOf = new Map<string, number>()
    for (const { key, value } of field.value.items) {
      if (!isScalar(key)) continue
      const name = typeof key.value === 'string' ? key.value : (key.source ?? String(key.value))
      const at = this.originAt(key.range?.[0] ?? 0)
      const earlier = lineOf.get(name)
      if (earlier !== undefined) {
        this.fail(
          at,
          `${quote(name)} is in ${field.where} twice`,
          `it is on line ${String(earlier)} already; keep one`,
        )
        continue
      }
      lineOf.set(name, at.line)
      if (!accept(name, at, field.where)) continue
      const where = field.where === 'the policy' ? name : `${field.where}.${name}`
      found.set(name, { value: value as Node | null, at: key, where })
    }
    return found
  }

  /** The items of a list, at least one of them. */
  list(field: Field | undefined): readonly Field[] {
    if (!field) return []
    if (!isSeq(field.value)) {
      this.#wrongType(field, 'a list', ' (- item, or [item, item])')
      return []
    }
    if (field.value.items.length === 0) {
      this.failAt(field, `${field.where} is an empty list`, 'write an item, or leave it out')
    }
    return field.value.items.map((item, i) => ({
      value: item as Node | null,
      at: item as Node,
      where: `${field.where}[${String(i)}]`,
    }))
  }

  /** The items of a list, or the one value that stands alone. */
  listOrOne(field: Field | undefined): readonly Field[] {
    return field && isScalar(field.value) && field.value.value !== null ? [field] : this.list(field)
  }

  isMap(field: Field): boolean {
    return isMap(field.value)
  }

  scalar(field: Field): string | number | boolean | undefined {
    const value: unknown = isScalar(field.value) ? field.value.value : undefined
    if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') {
      return value
    }
    return this.#wrongType(field, 'one value', '')
  }

  /** Non-empty text of one line, bounded. */
  text(field: Field | undefined, most = 1024): string | undefined {
    if (!field) return undefined
    const value: unknown = isScalar(field.value) ? field.value.value : undefined
    if (typeof value !== 'string') {
      const source = isScalar(field.value) ? field.value.source : undefined
      const example =
        source && !looksSecret(source) && value !== null ? ` in quotes: "${source}"` : ''
      return this.#wrongType(field, 'text', example)
    }
    if (value === '') return this.#wrongType(field, 'text', '')
    const control = /[\x00-\x1f\x7f]/.test(value)
    if (!control && value.length <= most) return value
    this.failAt(
      field,
      control
        ? `${field.where} has a line break or control character in it`
        : `${field.where} has ${String(value.length)} characters`,
      control ? 'write one line of plain text' : `at most ${String(most)}`,
    )
    return undefined
  }

  bool(field: Field | undefined): boolean | undefined {
    if (!field) return undefined
    const value: unknown = isScalar(field.value) ? field.value.value : undefined
    return typeof value === 'boolean' ? value : this.#wrongType(field, 'true or false', '')
  }

  /** A number between the bounds; whole unless `fractions`. */
  number(
    field: Field | undefined,
    least: number,
    most: number,
    fractions = false,
  ): number | undefined {
    if (!field) return undefined
    const value: unknown = isScalar(field.value) ? field.value.value : undefined
    const range = `${fractions ? 'a number' : 'a whole number'} from ${String(least)} to ${String(most)}`
    if (typeof value !== 'number') return this.#wrongType(field, range, '')
    if (value >= least && value <= most && (fractions || Number.isInteger(value))) return value
    this.failAt(field, `${field.where} is ${String(value)}`, `write ${range}`)
    return undefined
  }

  oneOf<const T extends string>(field: Field | undefined, words: readonly T[]): T | undefined {
    if (!field) return undefined
    const value: unknown = isScalar(field.value) ? field.value.value : undefined
    const word = words.find((w) => w === value)
    if (word !== undefined) return word
    const what = typeof value === 'string' ? `is ${quote(value)}` : kindOf(field.value)
    this.failAt(field, `${field.where} ${what}`, `write ${wordList(words)}`)
    return undefined
  }

  /** Text through a parser of single values. */
  parsed<T>(field: Field | undefined, parse: (text: string) => T | Problem): T | undefined {
    const text = this.text(field)
    return field === undefined || text === undefined ? undefined : this.#unwrap(field, parse(text))
  }

  /** Text or a number through a parser of single values (sizes, durations, ports). */
  parsedNumber<T>(
    field: Field | undefined,
    parse: (value: string | number) => T | Problem,
  ): T | undefined {
    if (!field) return undefined
    const value: unknown = isScalar(field.value) ? field.value.value : undefined
    if (typeof value !== 'string' && typeof value !== 'number') {
      return this.#wrongType(field, 'a number or text', '')
    }
    return this.#unwrap(field, parse(value))
  }

  #unwrap<T>(field: Field, value: T | Problem): T | undefined {
    if (!isProblem(value)) return value
    this.failAt(field, value.problem, value.hint)
    return undefined
  }

  /** Reports a value that gives a secret away. True when it does. */
  refuseSecret(field: Field, name: string, value: string): boolean {
    if (!isSecretName(name) || value === '') return false
    this.failAt(
      field,
      `${field.where} writes a secret into the policy`,
      'take it out and declare it under credentials with from: env:NAME or file:/path',
    )
    return true
  }
}

function placeOf({ line, column }: Origin): string {
  return `${String(line)}:${String(column)}`
}

function kindOf(node: Node | null): string {
  if (node === null) return 'is empty'
  if (isMap(node)) return 'is a mapping'
  if (isSeq(node)) return 'is a list'
  if (!isScalar(node)) return 'is no plain value'
  switch (typeof node.value) {
    case 'string':
      return node.value === '' ? 'is empty' : 'is text'
    case 'number':
    case 'bigint':
      return 'is a number'
    case 'boolean':
      return 'is true or false'
    default:
      return 'is empty'
  }
}

function wordList(words: readonly string[]): string {
  return words.length < 2
    ? words.join('')
    : `${words.slice(0, -1).join(', ')} or ${words.at(-1) ?? ''}`
}
