/**
 * Fills the credential slots of a policy.
 * Invariant: a required key that is missing stops the run; an optional one turns its grants back to
 * proving the name alone, and leaves no rule behind that nothing would enforce.
 */
import { formatHost } from './hosts.js'
import { omit } from './layer.js'
import { overlap } from './ports.js'
import type { Credential, Grant, Policy } from './types.js'

export interface Slots {
  /** Without the credentials that have no value. */
  readonly policy: Policy
  /** Required credentials without a value: the run must be refused. */
  readonly missing: readonly Credential[]
  /** Optional credentials without a value: worth a word to the user. */
  readonly empty: readonly Credential[]
}

/** @param found - Ids of the credentials whose value was found. */
export function fillSlots(policy: Policy, found: ReadonlySet<string>): Slots {
  const without = [...policy.credentials.values()].filter(({ id }) => !found.has(id))
  const empty = without.filter((credential) => credential.optional)
  const gone = new Set(empty.map(({ id }) => id))
  return {
    policy: {
      ...policy,
      credentials: new Map([...policy.credentials].filter(([id]) => !gone.has(id))),
      grants: policy.grants.flatMap((grant) => {
        if (grant.credential === undefined || !gone.has(grant.credential)) return [grant]
        return policy.grants.some((other) => stillPins(other, grant, gone))
          ? []
          : [namesOnly(grant)]
      }),
    },
    missing: without.filter((credential) => !credential.optional),
    empty,
  }
}

/** Whether another grant of the same host keeps its key: an unpinned way beside it would undo it. */
function stillPins(other: Grant, grant: Grant, gone: ReadonlySet<string>): boolean {
  return (
    other.credential !== undefined &&
    !gone.has(other.credential) &&
    formatHost(other.host) === formatHost(grant.host) &&
    overlap(other.ports, grant.ports)
  )
}

function namesOnly(grant: Grant): Grant {
  return { ...omit(grant, 'credential'), inspect: 'sni', access: 'full', rules: [] }
}
