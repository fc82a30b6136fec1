/**
 * Text to a YAML tree with positions.
 * Invariant: the tree holds only plain mappings, lists and scalars: no aliases (and so no bombs), no
 * merge keys, no tags, bounded depth; secrets written out are found wherever they stand.
 */
import {
  LineCounter,
  type Node,
  isAlias,
  isCollection,
  isMap,
  isPair,
  isScalar,
  parseDocument,
} from 'yaml'
import { looksSecret } from '../secrets.js'
import { putPlainLists, takePlainLists } from './plain-lists.js'
import { type Field, Reader } from './reader.js'

/** Bytes; the largest bundled policy has a few thousand. */
export const maxPolicyBytes = 1024 * 1024
const maxDepth = 16

type ParsedDocument = ReturnType<typeof parseDocument>

/** The root of the document, or only problems in `reader`. */
export function readDocument(
  text: string,
  file: string,
): { readonly reader: Reader; readonly root?: Field } {
  const lines = new LineCounter()
  const reader = new Reader(file, lines)
  const start = reader.originAt(0)
  if (text.length > maxPolicyBytes) {
    reader.fail(start, 'the policy is larger than 1 MiB', 'split it and use extends')
    return { reader }
  }
  const root = parseText(text, reader, lines)
  if (root === undefined) return { reader }
  if (root === null) {
    reader.fail(start, 'the policy is empty', 'write version: 1 and network.allow')
    return { reader }
  }
  checkNode(root, reader, 0)
  reader.markTold()
  return { reader, root: { value: root, at: root, where: 'the policy' } }
}

function parseText(text: string, reader: Reader, lines: LineCounter): Node | null | undefined {
  const nul = text.indexOf('\0')
  try {
    const document = parseYaml(text, lines)
    if (nul >= 0) {
      reader.fail(reader.originAt(nul), 'a NUL character', 'save the file as plain UTF-8 text')
      return undefined
    }
    // One unclosed bracket gives an error for each level it stands in, all at one place.
    const errors = new Map([...document.errors].reverse().map((error) => [error.pos[0], error]))
    for (const error of errors.values()) {
      reader.fail(
        reader.originAt(error.pos[0]),
        `not valid YAML: ${syntaxText(error.code, error.message)}`,
        syntaxHint(error.code),
      )
    }
    return document.errors.length > 0 ? undefined : document.contents
  } catch (error) {
    // Nesting so deep that the YAML parser runs out of stack.
    if (!(error instanceof RangeError)) throw error
    reader.fail(reader.originAt(0), 'nested too deep', `at most ${String(maxDepth)} levels`)
    return undefined
  }
}

function parseYaml(text: string, lines: LineCounter): ParsedDocument {
  const plain = takePlainLists(text)
  if (plain !== undefined) {
    const document = parseWhole(plain.text, lines)
    const isWhole = putPlainLists(document, plain)
    lines.lineStarts = isWhole ? [...plain.lineStarts] : []
    if (isWhole) return document
  }
  return parseWhole(text, lines)
}

function parseWhole(text: string, lines: LineCounter): ParsedDocument {
  return parseDocument(text, {
    lineCounter: lines,
    prettyErrors: false,
    // Told by the reader, with the line of the first one.
    uniqueKeys: false,
    keepSourceTokens: false,
    merge: false,
    version: '1.2',
    schema: 'core',
    // With `silent` a second document would be dropped without an error.
    logLevel: 'error',
  })
}

function syntaxText(code: string, message: string): string {
  if (code === 'MULTIPLE_DOCS') return 'a second document'
  const line = message.split('\n')[0] ?? ''
  return looksSecret(line) || line === '' ? code.toLowerCase() : line
}

function syntaxHint(code: string): string {
  switch (code) {
    case 'TAB_AS_INDENT':
      return 'indent with spaces'
    case 'MULTIPLE_DOCS':
      return 'one policy a file; remove the second ---'
    case 'BAD_INDENT':
      return 'line up the keys of one mapping, and close brackets'
    default:
      return 'check the quotes, brackets and indentation here'
  }
}

function checkNode(node: unknown, reader: Reader, depth: number): void {
  if (isPair(node)) {
    checkKey(node.key, reader)
    checkNode(node.value, reader, depth)
    return
  }
  if (!isAlias(node) && !isScalar(node) && !isCollection(node)) return
  const at = reader.originAt(node.range?.[0] ?? 0)
  if (isAlias(node) || node.anchor !== undefined) {
    // `*.example.com` without quotes: YAML takes it for an alias.
    const hint =
      isAlias(node) && node.source.startsWith('.')
        ? `put the pattern in quotes: "*${node.source}"`
        : 'write the value out'
    reader.fail(at, 'anchors and aliases are not read', hint)
    return
  }
  if (node.tag !== undefined) {
    reader.fail(at, 'tags are not read', 'write the plain value')
  } else if (isScalar(node)) {
    if (typeof node.value === 'string' && looksSecret(node.value)) {
      reader.fail(
        at,
        'a secret is written here',
        'take it out, replace it at its service, and name its source under credentials',
      )
    }
  } else if (depth >= maxDepth) {
    reader.fail(at, 'nested too deep', `at most ${String(maxDepth)} levels`)
  } else if (isCollection(node)) {
    for (const item of node.items) checkNode(item, reader, depth + 1)
  }
}

function checkKey(key: unknown, reader: Reader): void {
  checkNode(key, reader, maxDepth)
  if (isScalar(key) && key.value === '<<') {
    reader.fail(
      reader.originAt(key.range?.[0] ?? 0),
      'merge keys are not read',
      'write the values out, or use extends',
    )
  } else if (isMap(key)) {
    reader.fail(reader.originAt(key.range?.[0] ?? 0), 'a mapping as a key', 'write a plain word')
  }
}
