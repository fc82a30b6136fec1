/**
 * A normalised policy to JSON and back (a precompiled bundle, a running jail's record).
 * Invariant: what comes back is deeply equal to what went in. The text is trusted: it is only ever
 * read from where agentjail itself wrote it.
 */
import type { Policy } from './types.js'

const format = 1

export function policyToJson(policy: Policy): string {
  return JSON.stringify({
    format,
    policy: {
      ...policy,
      dns: { ...policy.dns, hosts: [...policy.dns.hosts] },
      credentials: [...policy.credentials],
      env: { ...policy.env, set: [...policy.env.set] },
    },
  })
}

interface Stored {
  readonly format: number
  readonly policy: Omit<Policy, 'dns' | 'credentials' | 'env'> & {
    readonly dns: Omit<Policy['dns'], 'hosts'> & {
      readonly hosts: readonly (readonly [string, readonly string[]])[]
    }
    readonly credentials: readonly (readonly [string, never])[]
    readonly env: Omit<Policy['env'], 'set'> & {
      readonly set: readonly (readonly [string, string])[]
    }
  }
}

/** `undefined` for text of another format (an older version's); throws SyntaxError for what is no JSON. */
export function policyFromJson(text: string): Policy | undefined {
  const stored = JSON.parse(text) as Partial<Stored> | null
  if (stored?.format !== format || !stored.policy) return undefined
  const { policy } = stored
  return {
    ...policy,
    dns: { ...policy.dns, hosts: new Map(policy.dns.hosts) },
    credentials: new Map(policy.credentials),
    env: { ...policy.env, set: new Map(policy.env.set) },
  }
}
