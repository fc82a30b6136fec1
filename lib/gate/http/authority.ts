/**
 * The jail's own CA.
 * Invariant: its private key exists in the memory of this process and, for one that replaces it, of the warden.
 */
import type { SecureContext } from 'node:tls'

export interface Authority {
  /** PEM of the CA's certificate. */
  readonly pem: string
  /** PEM of its private key and certificate: what makes the same CA again. */
  readonly kept: string
  /** A server context with a leaf certificate for exactly this name. */
  contextFor(name: string): SecureContext
}

/** Makes a CA for one jail: the one that `kept` is of, or one with a fresh key. */
export async function createAuthority(jail: string, kept?: string): Promise<Authority> {
  const { makeAuthority } = await import('./certificates.js')
  return makeAuthority(jail, kept)
}
