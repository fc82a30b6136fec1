/**
 * The forms of an injected key that a response may repeat, and what the command sees instead of each.
 * Invariant: whatever form the key left in is among them.
 */
import type { ResolvedCredential } from '../protocol.js'
import { headerValue } from './credential.js'

export interface Swap {
  readonly secret: string
  readonly placeholder: string
}

const forms: readonly ((credential: ResolvedCredential) => string)[] = [
  ({ value }) => value,
  ({ value }) => encodeURIComponent(value),
  ({ value }) => JSON.stringify(value).slice(1, -1),
  // After the scheme: Basic's base64.
  (credential) => headerValue(credential).replace(/^\S+ /, ''),
]

/** None where nothing was injected. */
export function swapsOf(credential: ResolvedCredential | undefined): readonly Swap[] {
  if (credential?.mode !== 'inject' || credential.placeholder === undefined) return []
  const shown = { ...credential, value: credential.placeholder }
  const swaps = new Map(forms.map((form) => [form(credential), form(shown)]))
  return [...swaps].map(([secret, placeholder]) => ({ secret, placeholder }))
}

export function swapText(text: string, swaps: readonly Swap[]): string {
  let out = text
  for (const { secret, placeholder } of swaps) out = out.replaceAll(secret, placeholder)
  return out
}
