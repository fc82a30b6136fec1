/**
 * The jail's environment on macOS: as planned, and the variables that lead programs to the gate. Pure.
 * Invariant: nothing that a loader or an interpreter of a privileged program would obey gets through.
 */
import { caBundlePath, caPath, caVariables } from '../mount-plan.js'

/** The chain passes through launchctl and sudo, which run as root: loaders must find nothing there. */
const dangerous = /^(DYLD_|LD_|Malloc|OBJC_|XPC_|SUDO_|CFNETWORK_|NODE_OPTIONS$|_)/

export interface MacProxy {
  readonly port: number
  /** Only who sends it may use the gate: should another tool flush the rules, other users still may not. */
  readonly token: string
}

export interface MacEnvironment {
  readonly env: ReadonlyMap<string, string>
  readonly home: string
  /** The gate's CONNECT and SOCKS5h listener; absent where the policy is transparent. */
  readonly proxy?: MacProxy
  /** Files with the jail's CA alone, and with the system's roots. */
  readonly ca?: { readonly own: string; readonly bundle: string }
}

export function macEnvironment({ env, home, proxy, ca }: MacEnvironment): Map<string, string> {
  const result = new Map([...env].filter(([name]) => !dangerous.test(name)))
  result.set('TMPDIR', `${home}/tmp`)
  result.set('SHELL', '/bin/zsh')
  if (proxy !== undefined)
    for (const [name, value] of proxyVariables(proxy)) if (!env.has(name)) result.set(name, value)
  if (ca !== undefined)
    for (const [name, path] of caVariables)
      if (!env.has(name))
        result.set(name, path.replace(caBundlePath, ca.bundle).replace(caPath, ca.own))
  return result
}

function proxyVariables({ port, token }: MacProxy): [string, string][] {
  const at = `agentjail:${token}@127.0.0.1:${String(port)}`
  const local = 'localhost,127.0.0.1,::1'
  return [
    ...['HTTP_PROXY', 'HTTPS_PROXY', 'http_proxy', 'https_proxy'].map((name): [string, string] => [
      name,
      `http://${at}`,
    ]),
    ['ALL_PROXY', `socks5h://${at}`],
    ['all_proxy', `socks5h://${at}`],
    ['NO_PROXY', local],
    ['no_proxy', local],
    // Node reads proxy variables only when told to (24 and later, 22.21 and later).
    ['NODE_USE_ENV_PROXY', '1'],
  ]
}
