/**
 * The names of everything agentjail puts into pf.
 * Invariant: tables are at most 31 characters, labels 63, and start with agentjail's own prefix.
 */

/**
 * The default anchor. Stock macOS evaluates `anchor "com.apple/*"`: every anchor directly below
 * `com.apple`, in order of their names, and nothing deeper.
 */
export const defaultAnchor = 'com.apple/agentjail'

/** The machine's own addresses. */
export const selfTable = 'aj_self'

/** Pinned addresses of one grant of the jail with this uid. */
export function pinTable(uid: number, grant: string): string {
  return `aj_${String(uid)}_${grant}`
}

export const isOwnTable = (name: string): boolean => /^aj_(self$|\d+_)/.test(name)

/** By uid, not by name: bounded, and what the log reader needs. */
export function label(uid: number, what: string): string {
  return `aj:${String(uid)}:${what}`
}

/** The uid and the part after it of one of our labels; `uid` is undefined for the base rules. */
export function parseLabel(text: string): { uid: number | undefined; what: string } | undefined {
  const match = /^aj:(base|\d+):([a-z0-9-]+)$/.exec(text)
  if (match?.[1] === undefined || match[2] === undefined) return undefined
  return { uid: match[1] === 'base' ? undefined : Number(match[1]), what: match[2] }
}

/** pf logs at most 15 characters of an anchor's last part; `_` at the start of a part is refused. */
export function isAnchorPath(path: string): boolean {
  const parts = path.split('/')
  const wellFormed = parts.every((part) => /^[A-Za-z][A-Za-z0-9.-]{0,62}$/.test(part))
  if (!wellFormed || (parts.at(-1) ?? '').length > 15) return false
  // One level below com.apple is evaluated; deeper ones are loaded and never looked at.
  if (parts[0] === 'com.apple') return parts.length === 2 && !/^(200\.|250\.)/.test(parts[1] ?? '')
  return parts.length === 1
}
