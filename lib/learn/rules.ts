/**
 * Requests to the narrowest HTTP rules that cover them and their like. Pure.
 * Invariant: every request given is let through by the rules that come out (none: all are).
 */
import { normaliseSegments } from '../gate/http/target.js'

export interface LearnedRule {
  readonly method: string
  readonly path: string
}

/** More rules of one host than a person reads: then a method's paths are joined under what they share. */
const maxRules = 20

/** `requests`: `METHOD path`. Parts that differ from call to call (numbers, ids, keys) become `*`. None: no rule can say it. */
export function learnRules(requests: Iterable<string>): readonly LearnedRule[] {
  const all = [...requests]
  // A path that two servers could read in two ways fits no rule (`@scope%2fname`): then the host is open whole.
  if (
    all.some((request) => normaliseSegments(request.slice(request.indexOf(' ') + 1)) === undefined)
  )
    return []
  const rules = unique(
    all.map((request) => {
      const space = request.indexOf(' ')
      return { method: request.slice(0, space), path: generalise(request.slice(space + 1)) }
    }),
  )
  return rules.length <= maxRules ? rules : joined(rules)
}

function generalise(path: string): string {
  return path
    .split('/')
    .map((segment) => (segment !== '' && (!isPlain(segment) || varies(segment)) ? '*' : segment))
    .join('/')
}

/** What a rule can say as it is: no glob, nothing that is normalised on the way. */
function isPlain(segment: string): boolean {
  return /^[A-Za-z0-9_~@:$!'(),.-]+$/.test(segment) && !/^\.+$/.test(segment)
}

function varies(segment: string): boolean {
  if (/^\d+$/.test(segment)) return true
  if (/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(segment)) return true
  if (/^[0-9a-f]{16,}$/i.test(segment)) return true
  return segment.length >= 16 && /\d/.test(segment) && /^[A-Za-z0-9_-]+$/.test(segment)
}

function joined(rules: readonly LearnedRule[]): readonly LearnedRule[] {
  const methods = [...new Set(rules.map(({ method }) => method))]
  return methods.map((method) => {
    const paths = rules.filter((rule) => rule.method === method).map(({ path }) => path.split('/'))
    const [first = []] = paths
    if (paths.length === 1) return { method, path: first.join('/') }
    let shared = 0
    while (shared < first.length && paths.every((path) => path[shared] === first[shared])) shared++
    return { method, path: `${first.slice(0, shared).join('/')}/**`.replace(/^\/\/+/, '/') }
  })
}

function unique(rules: readonly LearnedRule[]): readonly LearnedRule[] {
  const byText = new Map(rules.map((rule) => [`${rule.path} ${rule.method}`, rule]))
  return [...byText.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, rule]) => rule)
}
