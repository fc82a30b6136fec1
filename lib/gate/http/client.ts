/**
 * One request of the jail, the same to the exchange whether HTTP/1.1 or HTTP/2 brought it.
 * Invariant: a response once begun is either completed or visibly cut, never silently shortened.
 */
import type { Duplex, Readable, Writable } from 'node:stream'
import type { Field, RequestHead } from './message.js'

export interface ResponseHead {
  readonly status: number
  readonly statusText: string
  readonly fields: readonly Field[]
}

export interface Client {
  readonly head: RequestHead
  /** Host or :authority as received. */
  readonly authority: string | undefined
  readonly body: Readable
  readonly version: '1' | '2'
  /** The client waits for `100 Continue` before it sends the body. */
  sendContinue(): void
  /** Begins the response; its body is written to what is returned. */
  respond(head: ResponseHead): Writable
  /** Trailer fields, before the body is ended. */
  addTrailers(fields: readonly Field[]): void
  isBegun(): boolean
  /** The client has gone away: there is nobody to answer. */
  isGone(): boolean
  /** Cuts request and response. */
  cut(): void
  /** The request is over, whole or cut: called once. */
  onOver(listener: () => void): void
  /** HTTP/1.1: hands over the raw connection for a WebSocket; what the client sent already is in `early`. */
  takeOver(): { readonly stream: Duplex; readonly early: Buffer } | undefined
}
