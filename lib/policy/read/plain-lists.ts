/**
 * Long lists of plain names, kept out of the YAML parser, which takes 20 times as long for them as all else does.
 * Invariant: the tree is the one that the parser makes of the whole text, offsets included; where that is not certain,
 * the parser gets the whole text.
 */
import { type Document, isCollection, isNode, isPair, isScalar, isSeq, Scalar } from 'yaml'
import type { YAMLSeq } from 'yaml'

/** Lines that follow each other, each one item of one list: `- NAME` or `- NAME:PORT`, NAME with a dot and no number at its end. */
const item = /^( *)- ([a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*\.[a-z][a-z-]+(?::[0-9]{1,5})?)$/
/** Fewer lines are not worth it. */
const least = 50

interface Item {
  readonly text: string
  readonly offset: number
}

interface Cut {
  /** Where it was, in the text that is left. */
  readonly at: number
  readonly length: number
}

export interface PlainLists {
  /** The text without all items of such lists but the first and the last. */
  readonly text: string
  readonly lists: readonly (readonly Item[])[]
  readonly cuts: readonly Cut[]
  /** Where the lines of the whole text start. */
  readonly lineStarts: readonly number[]
}

/** Undefined: there is no such list. */
export function takePlainLists(text: string): PlainLists | undefined {
  const lists: Item[][] = []
  const lineStarts = [0]
  let run: Item[] = []
  let indent = ''
  const end = (): void => {
    if (run.length >= least) lists.push(run)
    run = []
  }
  for (let from = 0; from < text.length;) {
    const newline = text.indexOf('\n', from)
    const to = newline < 0 ? text.length : newline
    const match = item.exec(text.slice(from, to))
    const [, before, name] = match ?? []
    if (before === undefined || name === undefined) end()
    else {
      if (before !== indent) end()
      indent = before
      run.push({ text: name, offset: from + before.length + 2 })
    }
    from = to + 1
    if (newline >= 0) lineStarts.push(from)
  }
  end()
  return lists.length === 0 ? undefined : { ...without(text, lists), lists, lineStarts }
}

function without(
  text: string,
  lists: readonly (readonly Item[])[],
): Pick<PlainLists, 'text' | 'cuts'> {
  const parts: string[] = []
  const cuts: Cut[] = []
  let from = 0
  let at = 0
  for (const list of lists) {
    const [first, last] = [list[0], list.at(-1)]
    if (first === undefined || last === undefined) continue
    const start = first.offset + first.text.length
    const stop = text.lastIndexOf('\n', last.offset)
    parts.push(text.slice(from, start))
    at += start - from
    cuts.push({ at, length: stop - start })
    from = stop
  }
  return { text: [...parts, text.slice(from)].join(''), cuts }
}

/** Puts the items back into the tree, and every node where it stands in the whole text. False: a list is none there, and the tree is not to be used. */
export function putPlainLists(document: Document, { lists, cuts }: PlainLists): boolean {
  if (document.errors.length > 0) return false
  const inWhole = (offset: number): number =>
    cuts.reduce((sum, { at, length }) => (at < offset ? sum + length : sum), offset)
  const places = new Map<number, { readonly list: YAMLSeq; readonly index: number }>()
  const look = (node: unknown): void => {
    if (isPair(node)) {
      look(node.key)
      look(node.value)
    }
    if (isNode(node) && node.range) {
      const [start, value, end] = node.range
      node.range = [inWhole(start), inWhole(value), inWhole(end)]
    }
    if (!isCollection(node)) return
    for (const each of node.items) look(each)
    if (isSeq(node)) {
      for (const [index, each] of node.items.entries())
        if (isScalar(each) && each.range) places.set(each.range[0], { list: node, index })
    }
  }
  look(document.contents)
  // From the end: an index counts what stands before it only.
  for (const items of [...lists].reverse()) {
    const [first, last] = [items[0], items.at(-1)]
    const place = places.get(first?.offset ?? -1)
    const next = places.get(last?.offset ?? -1)
    if (place === undefined || next?.list !== place.list || next.index !== place.index + 1)
      return false
    const head = place.list.items[place.index]
    if (!isScalar(head) || head.value !== first?.text || place.list.flow === true) return false
    place.list.items.splice(next.index, 0, ...items.slice(1, -1).map(toScalar))
  }
  return true
}

function toScalar({ text, offset }: Item): Scalar {
  const scalar = new Scalar(text)
  scalar.type = Scalar.PLAIN
  scalar.source = text
  scalar.range = [offset, offset + text.length, offset + text.length]
  return scalar
}
