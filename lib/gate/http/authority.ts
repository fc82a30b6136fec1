/**
 * The jail's own CA.
 * Invariant: its private key exists in this process's memory only.
 */
import type { SecureContext } from 'node:tls'

export interface Authority {
  /** PEM of the CA's certificate. */
  readonly pem: string
  /** A server context with a leaf certificate for exactly this name. */
  contextFor(name: string): SecureContext
}

/** Makes a CA with a fresh key for one jail. */
export async function createAuthority(jail: string): Promise<Authority> {
  const { makeAuthority } = await import('./certificates.js')
  return makeAuthority(jail)
}
