/**
 * srt's proxy on its own, as a parent process measures it: sends where it listens. With `terminate` it ends TLS and
 * judges method and path of each request, as far as that goes the HTTP gate's work.
 */
import { SandboxManager } from '@anthropic-ai/sandbox-runtime'

const terminate = {
  tlsTerminate: {},
  filterRequest: async (request) => {
    const { pathname } = new URL(request.url)
    const isGranted =
      (request.method === 'POST' && pathname.startsWith('/v1/')) ||
      (request.method === 'GET' && pathname === '/down')
    return { action: isGranted ? 'allow' : 'deny' }
  },
}
await SandboxManager.initialize({
  network: {
    allowedDomains: ['localhost'],
    deniedDomains: [],
    ...(process.argv[2] === 'terminate' ? terminate : {}),
  },
  filesystem: { denyRead: [], allowWrite: [], denyWrite: [] },
})
process.send?.({
  port: SandboxManager.getProxyPort(),
  token: SandboxManager.getProxyAuthToken(),
  ca: SandboxManager.getMitmCA()?.certPem,
})
process.on('disconnect', async () => {
  await SandboxManager.reset()
  process.exit(0)
})
