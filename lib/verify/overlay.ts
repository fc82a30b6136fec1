/**
 * The policy of a battery: the user's own, and a name of the battery's. Pure.
 * Invariant: it differs in what is listed here; nothing of the caller's secrets is loaded.
 */
import { plainGrant } from '../policy/plain-grant.js'
import type { Grant, Policy, PortRange } from '../policy/types.js'

/** Names of the battery; `.example` is nobody's (RFC 2606). Only the first is granted. */
export const names = {
  granted: 'granted.agentjail-verify.example',
  other: 'other.agentjail-verify.example',
  tunnel: 'tunnel.agentjail-verify.example',
} as const
const parent = 'agentjail-verify.example'

/** Processes, and bytes of /tmp, where the policy has no limit of its own. */
export const defaultLimits = { pids: 128, tmp: 32 * 1024 * 1024 } as const

export interface Overlay {
  /** Of the granted name; queries go there, too. */
  readonly address: string
  readonly ports: readonly PortRange[]
  /** Every name of the battery is granted. */
  readonly isNameless: boolean
}

/** A name of the battery's own is granted and its DNS goes to the target; limits and files are the battery's. */
export function overlay(policy: Policy, { address, ports, isNameless }: Overlay): Policy {
  const origin = { file: 'agentjail verify', line: 1, column: 1 }
  const grant = (id: string, host: Grant['host']): Grant => ({
    ...plainGrant({ id, host, ports, origin }),
    private: host.kind === 'exact',
  })
  const next = policy.grants.length + 1
  const fixed = [names.granted, ...(isNameless ? [names.other] : [])]
  return {
    ...policy,
    grants: [
      ...policy.grants.map(withoutCredential),
      grant(`g${String(next)}`, { kind: 'exact', name: names.granted }),
      ...(isNameless ? [grant(`g${String(next + 1)}`, { kind: 'many', name: parent })] : []),
    ],
    credentials: new Map(),
    dns: {
      ...policy.dns,
      upstream: [{ address, port: 53 }],
      hosts: new Map([...policy.dns.hosts, ...fixed.map((name) => [name, [address]] as const)]),
    },
    fs: { read: [process.execPath], write: [], deny: [] },
    limits: { ...defaultLimits, ...policy.limits },
  }
}

function withoutCredential(grant: Grant): Grant {
  const { credential, ...rest } = grant
  return credential === undefined ? grant : rest
}
