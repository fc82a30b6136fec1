/**
 * Fetches the values of a policy's credentials from where the policy says they are.
 * Invariant: no message holds a value, and nobody gets a key read for them that they could not read:
 * files must be the caller's own (or root's, for a policy of root's), commands run as the caller.
 */
import { JailError } from '../errors.js'
import type { ResolvedCredential } from '../gate/protocol.js'
import type { Credential } from '../policy/types.js'
import { readSource } from './sources.js'

/** Whether reading them could find a key at all: of variables one sees that without looking at the value. */
export function mayHaveValues(
  credentials: Iterable<Pick<Credential, 'from'>>,
  { callerEnv }: Pick<CredentialFacts, 'callerEnv'>,
): boolean {
  for (const { from } of credentials)
    if (from.kind !== 'env' || (callerEnv[from.name] ?? '') !== '') return true
  return false
}

export interface CredentialFacts {
  /** The environment of whoever called, before anything was rebuilt. */
  readonly callerEnv: Readonly<Record<string, string | undefined>>
  readonly caller: { readonly uid: number; readonly gid: number; readonly home: string }
  /** The policy is root's own: it may name files of root. */
  readonly isRootPolicy: boolean
}

/** Characters that may stand in a header, a path segment and a variable alike. */
const keyForm = /^[\x21-\x7e]{8,4096}$/

/**
 * The credentials whose value was found. One that is not optional and has no value is left out too
 * (`fillSlots` names it); a value that is there and can't be used is an error.
 */
export async function resolveCredentials(
  credentials: Iterable<Credential>,
  facts: CredentialFacts,
): Promise<ResolvedCredential[]> {
  const resolved: ResolvedCredential[] = []
  // Two credentials of one variable (a token for an API and for git) must show the same placeholder.
  const placeholders = new Map<string, string>()
  for (const credential of credentials) {
    const value = clean(await readSource(credential, facts))
    if (value === undefined) continue
    if (!keyForm.test(value)) {
      throw new JailError('POLICY_INVALID', `the credential ${credential.id} is no usable key`, {
        hint: 'a key has 8 to 4096 visible ASCII characters and no space',
      })
    }
    const { id, mode, format } = credential
    if (mode === 'pin') {
      resolved.push({ id, mode, in: credential.in, format, value })
      continue
    }
    // Loaded where a key is hidden only: it needs node:crypto.
    const { placeholderFor } = await import('./placeholder.js')
    const shared = `${credential.env ?? id} ${value}`
    const placeholder = placeholders.get(shared) ?? placeholderFor(value)
    placeholders.set(shared, placeholder)
    resolved.push({ id, mode, in: credential.in, format, value, placeholder })
  }
  return resolved
}

/** Files and commands end in a newline; an empty variable is none. */
function clean(text: string | undefined): string | undefined {
  const value = text?.replace(/^\s+|\s+$/g, '')
  return value === '' ? undefined : value
}
