/**
 * A request's head in the one form that decisions are made on, whatever version of HTTP brought it,
 * and what a decision makes of it.
 */
import type { ReasonCode } from '../../audit/record.js'
import type { Grant, HttpRule } from '../../policy/types.js'
import type { ResolvedCredential } from '../protocol.js'

/** A header field as received; pseudo-header fields are not among them. */
export type Field = readonly [name: string, value: string]

export interface RequestHead {
  readonly method: string
  /** Request target (HTTP/1) or `:path`. */
  readonly target: string
  readonly fields: readonly Field[]
  /** The client asked for a WebSocket. */
  readonly webSocket: boolean
  /** A body is announced, by length or by framing. */
  readonly hasBody: boolean
  /** Bytes, where announced. */
  readonly contentLength: number | undefined
}

/** Where the request came in: what it must be for. */
export interface Place {
  readonly name: string
  readonly port: number
  readonly isTls: boolean
}

export interface Denial {
  readonly kind: 'deny'
  readonly status: number
  readonly reason: ReasonCode
  readonly grant?: Grant
  /** For the log: what was seen. Never a secret. */
  readonly detail?: string
  /** What the request was for, where that is not the connection's own name: what a policy would have to grant. */
  readonly asked?: { readonly name: string; readonly port: number }
  /** Ask the client for Basic credentials instead of refusing for good (git asks so first). */
  readonly challenge?: boolean
}

/** What is sent upstream once a grant, and one of its rules, allow a request. */
export interface Plan {
  readonly kind: 'allow'
  readonly grant: Grant
  readonly rule: HttpRule | undefined
  readonly method: string
  /** Path and query to send. May hold the credential: never log it. */
  readonly path: string
  /** Path for logs: no query, the credential's segment as `{token}`. */
  readonly logPath: string
  /** Fields to send, hop-by-hop ones and Host left out, the credential put in. */
  readonly fields: readonly Field[]
  /** Bytes. */
  readonly maxBody: number | undefined
  /** What the body must still be judged for, before a byte of it leaves. */
  readonly bodyCheck: BodyCheck | undefined
  /** What is looked for in the body as it streams; absent: nothing. */
  readonly scan: BodyScan | undefined
  readonly credential: ResolvedCredential | undefined
}

export interface BodyScan {
  readonly format: 'form' | 'json' | 'multipart'
  /** Refuse fields that are a credential; of a multipart body alone. */
  readonly credentials: boolean
  /** Refuse a field that names another method. */
  readonly method: boolean
}

export interface BodyCheck {
  readonly json: Readonly<Record<string, readonly (string | number | boolean)[]>> | undefined
  /** The credential travels in this field. */
  readonly credentialField: string | undefined
}

export type Judgement = Denial | readonly Plan[]

export function deny(
  status: number,
  reason: ReasonCode,
  more: Omit<Denial, 'kind' | 'status' | 'reason'> = {},
): Denial {
  return { kind: 'deny', status, reason, ...more }
}
