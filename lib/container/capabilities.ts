/**
 * Whether root here is root enough: in a container it may not be. Pure.
 * Invariant: a launch that could not drop what it must drop is refused, not weakened: without
 * CAP_SETPCAP the bounding set would stay as it is. Without CAP_SYS_ADMIN only `basic` is left, which says what it lacks.
 */
import { JailError } from '../errors.js'

/** Bits of <linux/capability.h>. NET_BIND_SERVICE is asked of the gate's sockets themselves. */
const needed = [
  ['CAP_NET_ADMIN', 12],
  ['CAP_SETUID', 7],
  ['CAP_SETGID', 6],
  ['CAP_SETPCAP', 8],
  ['CAP_KILL', 5],
] as const
const sysAdmin = ['CAP_SYS_ADMIN', 21] as const
/** For homes and new files: what `setup` and `doctor` look for besides. */
const chown = ['CAP_CHOWN', 0] as const

/**
 * @param status - Text of /proc/self/status.
 * @param namespaces whether what is to be done makes namespaces and mounts: all isolations but `basic`.
 * @throws JailError NOT_ROOT naming what is missing.
 */
export function requireCapabilities(status: string, namespaces: boolean): void {
  const missing = lacking(status, namespaces ? [...needed, sysAdmin] : needed)
  if (missing.length === 0) return
  const onlyNamespaces = missing.length === 1 && missing[0] === sysAdmin[0]
  throw new JailError('NOT_ROOT', `root here lacks ${missing.join(', ')}`, {
    hint: onlyNamespaces
      ? 'in a container, --isolation basic does without it, and holds less; or add it: see docs/containers.md'
      : 'in a container, add them (docker run --cap-add …): see docs/containers.md',
  })
}

/** Whether root here may make namespaces and mounts. @param status - Text of /proc/self/status. */
export function mayMakeNamespaces(status: string): boolean {
  return lacking(status, [sysAdmin]).length === 0
}

/** Names of what a machine that is to be set up lacks; CAP_SYS_ADMIN is a question of its own. */
export function lackingForSetup(status: string): string[] {
  return lacking(status, [chown, ...needed])
}

function lacking(status: string, wanted: readonly (readonly [string, number])[]): string[] {
  const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1]
  const have = hex === undefined ? 0n : BigInt(`0x${hex}`)
  return wanted.flatMap(([name, bit]) => ((have >> BigInt(bit)) & 1n ? [] : [name]))
}
