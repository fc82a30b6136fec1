/**
 * Long lists of plain names, kept out of the YAML parser, which takes 20 times as long for them as all else does.
 * Invariant: the tree is the one that the parser makes of the whole text, offsets included; where that is not certain,
 * the parser gets the whole text.
 */
import { type Document, isCollection, isPair, isScalar, isSeq, Scalar, type YAMLSeq } from 'yaml'

/** Lines that follow each other, each one item of one list: `- NAME` or `- NAME:PORT`, NAME with a dot and no number at its end. */
const item = /^( *)- ([a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*\.[a-z][a-z-]+(?::[0-9]{1,5})?)$/
/** Fewer lines are not worth it. */
const least = 50

interface Item {
  readonly text: string
  readonly offset: number
}

export interface PlainLists {
  /** The text with spaces in place of all items of such lists but the first and the last. */
  readonly text: string
  readonly lists: readonly (readonly Item[])[]
}

/** Undefined: there is no such list. */
export function takePlainLists(text: string): PlainLists | undefined {
  const lists: Item[][] = []
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
    const [, spaces, name] = match ?? []
    if (spaces === undefined || name === undefined) end()
    else {
      if (spaces !== indent) end()
      indent = spaces
      run.push({ text: name, offset: from + spaces.length + 2 })
    }
    from = to + 1
  }
  end()
  return lists.length === 0 ? undefined : { text: blanked(text, lists), lists }
}

function blanked(text: string, lists: readonly (readonly Item[])[]): string {
  const parts: string[] = []
  let from = 0
  for (const list of lists) {
    const [first, last] = [list[0], list.at(-1)]
    if (first === undefined || last === undefined) continue
    const start = first.offset + first.text.length
    const stop = text.lastIndexOf('\n', last.offset)
    parts.push(text.slice(from, start), text.slice(start, stop).replace(/[^\n]/g, ' '))
    from = stop
  }
  return [...parts, text.slice(from)].join('')
}

/** Puts the items back into the tree. False: a list is none there, and the tree is not to be used. */
export function putPlainLists(document: Document, { lists }: PlainLists): boolean {
  if (document.errors.length > 0) return false
  const places = new Map<number, { readonly list: YAMLSeq; readonly index: number }>()
  const look = (node: unknown): void => {
    if (isPair(node)) {
      look(node.key)
      look(node.value)
    }
    if (!isCollection(node)) return
    if (isSeq(node)) {
      for (const [index, each] of node.items.entries())
        if (isScalar(each) && each.range) places.set(each.range[0], { list: node, index })
    }
    for (const each of node.items) look(each)
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
