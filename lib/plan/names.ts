/**
 * Jail names: parsed once, safe everywhere after (paths, rules, account names, units). Pure.
 */
import { JailError } from '../errors.js'

const pattern = /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/
const maxLength = 25

/** A name that has been checked. */
export type JailName = string & { readonly jailName: true }

/** Throws NAME_INVALID. Letters, digits and single hyphens, a letter first, 25 characters at most. */
export function parseJailName(text: string): JailName {
  if (text.length <= maxLength && pattern.test(text)) return text as JailName
  const shown = JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text)
  throw new JailError('NAME_INVALID', `${shown} is not a jail name`, {
    hint: `use a-z, 0-9 and single hyphens, a letter first, ${maxLength} characters at most`,
  })
}

/** The jail's name where none is given: the policy's, made to fit. */
export function defaultJailName(policyName: string): JailName {
  const fitted = policyName
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^[^a-z]+/, '')
    .slice(0, maxLength)
    .replace(/-+$/, '')
  return parseJailName(fitted === '' ? 'jail' : fitted)
}

/** The service user of a jail. useradd takes nearly anything for a name, so it is derived, never passed through. */
export const accountName = (jail: JailName): string => `aj-${jail}`

/** What marks an account as agentjail's, in its comment field. */
export const accountComment = (jail: string): string => `agentjail ${jail}`

/** The jail that such a comment names. */
export const jailOf = (comment: string): string => comment.replace(/^agentjail /, '')
