/**
 * Edits of a policy file's text that keep its comments and order. Pure.
 * Invariant: only the one entry is added; what comes out parses.
 */
import { isMap, isScalar, isSeq, parseDocument, stringify } from 'yaml'
import { JailError } from '../errors.js'
import { parsePolicy } from '../policy/parse.js'
import type { Destination } from './destination.js'

/**
 * @param source - The file, for messages.
 * @throws JailError POLICY_INVALID where the text is no policy, or cannot take the entry.
 */
export function addToPolicyText(text: string, destination: Destination, source: string): string {
  const document = parseDocument(text, { keepSourceTokens: true })
  if (document.errors.length > 0 || !isMap(document.contents)) throw unfit(source)
  const { under, entry } = destination
  const network = document.get('network', true)
  if (network === undefined || (isScalar(network) && network.value === null)) {
    document.set('network', document.createNode({ [under]: [entry] }))
  } else if (!isMap(network)) throw unfit(source)
  else {
    const list = network.get(under, true)
    if (isSeq(list)) list.add(document.createNode(entry))
    else if (list === undefined || (isScalar(list) && list.value === null)) {
      network.set(under, document.createNode([entry]))
    } else throw unfit(source)
  }
  // `[a]` or `[ a ]`: as the file has it.
  const flowCollectionPadding = !/[[{][^\s\]}]/.test(text)
  const out = document.toString({ lineWidth: 0, flowCollectionPadding })
  const { problems } = parsePolicy(out, source)
  const [first] = problems ?? []
  if (first !== undefined) {
    throw new JailError('POLICY_INVALID', `${source} cannot take the entry: ${first.problem}`, {
      hint: first.hint,
    })
  }
  return out
}

/** A new file that adds the destination to bundled policies. */
export function extendingPolicyText(
  name: string,
  bases: readonly string[],
  destination: Destination,
): string {
  const { under, entry } = destination
  return stringify(
    { version: 1, name, extends: bases, network: { [under]: [entry] } },
    { lineWidth: 0 },
  )
}

function unfit(source: string): JailError {
  return new JailError('POLICY_INVALID', `${source} is not a policy that can be added to`, {
    hint: `see: agentjail policy check ${source}`,
  })
}
