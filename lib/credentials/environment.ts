/**
 * The variables through which the command sees its keys. Pure.
 * Invariant: of an injected key the command sees the placeholder alone.
 */
import type { ResolvedCredential } from '../gate/protocol.js'
import type { Credential } from '../policy/types.js'

export function credentialEnvironment(
  credentials: Iterable<Credential>,
  resolved: readonly ResolvedCredential[],
): Map<string, string> {
  const env = new Map<string, string>()
  const byId = new Map(resolved.map((each) => [each.id, each]))
  for (const { id, env: name } of credentials) {
    const found = byId.get(id)
    if (name === undefined || found === undefined) continue
    const shown = found.mode === 'inject' ? found.placeholder : found.value
    if (shown !== undefined) env.set(name, shown)
  }
  return env
}
