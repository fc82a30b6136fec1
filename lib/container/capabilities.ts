/**
 * Whether root here is root enough: in a container it may not be. Pure.
 * Invariant: a launch that could not drop what it must drop is refused, not weakened: without
 * CAP_SETPCAP the bounding set would stay as it is.
 */
import { JailError } from '../errors.js'

/** Bits of <linux/capability.h>, and what each is for. NET_BIND_SERVICE is asked of the gate's sockets themselves. */
const needed = [
  ['CAP_NET_ADMIN', 12],
  ['CAP_SYS_ADMIN', 21],
  ['CAP_SETUID', 7],
  ['CAP_SETGID', 6],
  ['CAP_SETPCAP', 8],
] as const

/**
 * @param status - Text of /proc/self/status.
 * @throws JailError NOT_ROOT naming what is missing.
 */
export function requireCapabilities(status: string): void {
  const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1]
  const have = hex === undefined ? 0n : BigInt(`0x${hex}`)
  const missing = needed.flatMap(([name, bit]) => ((have >> BigInt(bit)) & 1n ? [] : [name]))
  if (missing.length === 0) return
  throw new JailError('NOT_ROOT', `root here lacks ${missing.join(', ')}`, {
    hint: 'in a container, add them (docker run --cap-add …): see docs/containers.md',
  })
}
