/**
 * Which sockets a plan needs of its gate. Pure.
 * Invariant: one socket for each port that the plan sends to the gate, no other.
 */
import type { GatePort, NetworkPlan } from '../backend/types.js'
import type { ListenerSpec, OpenedListener } from './gate-process.js'

/** In the order in which they are opened. */
export function listenerSpecs(network: NetworkPlan): ListenerSpec[] {
  return (['udp', 'tcp'] as const).flatMap((proto) =>
    (proto === 'udp' ? network.gateUdp : network.gateTcp).flatMap(({ first, last }) =>
      Array.from({ length: last - first + 1 }, (_, index) => ({ proto, meant: first + index })),
    ),
  )
}

/** Those of `wanted` that nothing in `open` serves. */
export function missingSpecs(
  wanted: readonly ListenerSpec[],
  open: readonly OpenedListener[],
): ListenerSpec[] {
  const served = new Set(open.map(({ proto, port }) => `${proto} ${port}`))
  return wanted.filter(({ proto, meant }) => !served.has(`${proto} ${meant}`))
}

/** Destination port to the gate's own, once each (both families listen on the same). */
export function gatePorts(
  open: readonly OpenedListener[],
  wanted: readonly ListenerSpec[],
): GatePort[] {
  return wanted.flatMap(({ proto, meant }) => {
    const found = open.find((one) => one.proto === proto && one.port === meant)
    return found === undefined ? [] : [{ proto, port: meant, gatePort: found.actual }]
  })
}
