/** srt's proxy on its own, as a parent process measures it: sends where it listens. */
import { SandboxManager } from '@anthropic-ai/sandbox-runtime'

await SandboxManager.initialize({
  network: { allowedDomains: ['localhost'], deniedDomains: [] },
  filesystem: { denyRead: [], allowWrite: [], denyWrite: [] },
})
process.send?.({ port: SandboxManager.getProxyPort(), token: SandboxManager.getProxyAuthToken() })
process.on('disconnect', () => process.exit(0))
