/**
 * Checks of other firewalls, and of what dead jails left.
 */
import { openRegistry } from '../session/registry.js'
import { isAlive } from '../system/process-identity.js'
import { processesInRange } from '../setup/deny.js'
import { type Check, needsRoot, ok } from './types.js'

const firewalls: Check = {
  name: 'firewalls',
  why: 'another tool may flush or outrank rules; `isolation: namespace` does not depend on them',
  run: async ({ system }) => {
    const seen: string[] = []
    if ((await system.lstat('/run/firewalld')) !== undefined) seen.push('firewalld')
    const ufw = (await system.readFile('/etc/ufw/ufw.conf')) ?? ''
    if (/^\s*ENABLED\s*=\s*"?yes/im.test(ufw)) seen.push('ufw')
    if ((await system.lstat('/sys/class/net/docker0')) !== undefined) seen.push('docker')
    const legacy = ['ip_tables_names', 'ip6_tables_names'].map(
      // Present only with the old modules, and then readable by root alone.
      async (file) => (await system.readFile(`/proc/net/${file}`).catch(() => '')) ?? '',
    )
    if ((await Promise.all(legacy)).join('').trim() !== '') seen.push('iptables-legacy rules')
    if (seen.length === 0) return ok('none besides agentjail')
    return {
      state: 'warn',
      detail: `${seen.join(', ')} in use: with \`isolation: uid\` their reloads are noticed and mended`,
      fix: 'nothing to do with `isolation: namespace` (the default)',
    }
  },
}

const leftovers: Check = {
  name: 'leftovers',
  why: 'what a jail that was killed left behind denies, and is collected by the next one',
  run: async ({ system, config, isRoot, collect }) => {
    if (!isRoot) return needsRoot('the registry of jails')
    const registry = openRegistry(system, config.stateDir)
    const entries = await registry.list()
    const alive = await Promise.all(entries.map(({ owner }) => isAlive(system, owner)))
    const running = entries.filter((_, i) => alive[i])
    const dead = entries.filter((_, i) => !alive[i])
    const broken = await registry.broken()
    const uids = new Set(running.map(({ uid }) => uid))
    const strays = (await processesInRange(system, config.uidRange)).filter(
      ({ uid }) => !uids.has(uid),
    )
    const found = [
      ...dead.map(({ name }) => `jail ${name} died`),
      ...broken.map((name) => `the entry of ${name} cannot be read`),
      ...strays.map(
        ({ pid, uid, name }) => `process ${String(pid)} (${name}) of uid ${String(uid)}`,
      ),
    ]
    if (found.length === 0) return ok(`none; jails running: ${String(running.length)}`)
    return {
      // A process without a jail has no network, but it is not known whose it is.
      state: strays.length > 0 ? 'fail' : 'warn',
      detail: found.slice(0, 10).join('; '),
      fix: 'sudo agentjail gc',
      ...(dead.length + broken.length > 0 && { repair: collect }),
    }
  },
}

export const neighbourChecks: readonly Check[] = [firewalls, leftovers]
