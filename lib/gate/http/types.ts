/**
 * What the HTTP gate asks of the gate around it.
 * Invariant: nothing here gives the HTTP gate a way to reach an address; it can only dial a granted name.
 */
import type { Socket } from 'node:net'
import type { Decision, ReasonCode } from '../../audit/record.js'
import type { Grant } from '../../policy/types.js'
import type { ResolvedCredential } from '../protocol.js'
import type { Authority } from './authority.js'

/**
 * The gate's side. All members are asked anew for every request, so that a reload acts at once:
 * read the policy in force, don't copy it.
 */
export interface HttpContext {
  /** The TCP grants of a normalised name (lower case, no trailing dot) on a port, denials applied. */
  findGrants(name: string, port: number): readonly Grant[]
  /** Why a name without a grant is refused (`name-not-granted`, `name-denied`, `port-not-granted`). */
  refusal(name: string, port: number): ReasonCode
  /**
   * Resolves the name itself, checks the addresses against the grant, dials, and returns the
   * connected plain socket. Rejects with any error; a `reason` property on it is used for the record.
   */
  dial(name: string, port: number, grant: Grant): Promise<Socket>
  /** As `Decisions.report`. */
  report(decision: Decision, client?: number): Promise<void> | undefined
  /** Every credential of the jail; a grant names one by `id`. */
  credentials(): readonly ResolvedCredential[]
  readonly budget: HttpBudget
  /** The jail's CA; `undefined` where no grant asked for TLS termination. */
  readonly authority: Authority | undefined
  /** PEM of extra upstream roots. */
  readonly upstreamCa?: string
}

/** Counts what a grant lets through. A reason returned closes the request (and, for bytes, the grant). */
interface HttpBudget {
  /** One request begins. */
  request(grant: Grant): ReasonCode | undefined
  /** So many bytes are about to leave for the grant. */
  upload(grant: Grant, bytes: number): ReasonCode | undefined
}

/** A connection that the HTTP gate serves. The gate ends it by destroying the socket it handed in. */
export interface HttpServing {
  /** The grants that unfinished requests or WebSockets of this connection use now. */
  grantsInUse(): readonly Grant[]
}
