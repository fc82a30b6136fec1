/**
 * Path globs of rules: `*` within one segment, `**` any number of segments, `{token}` the credential.
 * Invariant: matching looks at normalised segments only, case-sensitively, in bounded time.
 */
import { normaliseSegments } from './target.js'

export interface PathMatch {
  /** Index of the segment that holds the credential, where the rule has `{token}`. */
  readonly tokenAt: number | undefined
}

const tokenMark = '{token}'

/** `prefix`: what stands before the credential within its segment. */
export function matchPath(glob: string, segments: readonly string[]): PathMatch | undefined {
  return matchFrom(globSegments(glob), 0, segments, 0)
}

const known = new Map<string, readonly string[]>()

function globSegments(glob: string): readonly string[] {
  let parts = known.get(glob)
  if (parts === undefined) {
    // Literals of the rule take the same normal form as the request; wildcards and braces are no escapes there.
    parts = normaliseSegments(glob) ?? ['\u0000']
    known.set(glob, parts)
  }
  return parts
}

/** A rule has at most a few `**`; segments are bounded by the target's length. */
function matchFrom(
  glob: readonly string[],
  globAt: number,
  segments: readonly string[],
  at: number,
): PathMatch | undefined {
  const part = glob[globAt]
  if (part === undefined) return at === segments.length ? { tokenAt: undefined } : undefined
  if (part === '**') {
    // Consecutive `**` are one; the last one takes all that is left.
    if (globAt === glob.length - 1) return { tokenAt: undefined }
    for (let next = at; next <= segments.length; next++) {
      const found = matchFrom(glob, globAt + 1, segments, next)
      if (found !== undefined) return found
    }
    return undefined
  }
  const segment = segments[at]
  if (segment === undefined || !matchSegment(part, segment)) return undefined
  const rest = matchFrom(glob, globAt + 1, segments, at + 1)
  if (rest === undefined) return undefined
  return part.includes(tokenMark) ? { tokenAt: at } : rest
}

function matchSegment(part: string, segment: string): boolean {
  const token = part.indexOf(tokenMark)
  if (token !== -1) {
    const prefix = part.slice(0, token)
    const suffix = part.slice(token + tokenMark.length)
    return (
      segment.length > prefix.length + suffix.length &&
      segment.startsWith(prefix) &&
      segment.endsWith(suffix)
    )
  }
  if (!part.includes('*')) return part === segment
  return segment !== '' && matchStars(part.split('*'), segment)
}

/** Leftmost greedy matching of literal pieces: linear, unlike a regular expression with several stars. */
function matchStars(pieces: readonly string[], text: string): boolean {
  const first = pieces[0] ?? ''
  const last = pieces.at(-1) ?? ''
  if (text.length < first.length + last.length) return false
  if (!text.startsWith(first) || !text.endsWith(last)) return false
  let at = first.length
  const end = text.length - last.length
  for (const piece of pieces.slice(1, -1)) {
    const found = text.indexOf(piece, at)
    if (found === -1 || found + piece.length > end) return false
    at = found + piece.length
  }
  return true
}
