/** Which edited policies a running jail on macOS can change to. Pure. */
import { JailError } from '../../errors.js'
import type { Plan } from '../../plan/types.js'

/** What was settled at the launch cannot be changed under a running command. Throws POLICY_INVALID. */
export function refuseUnloadable(before: Plan, after: Plan): void {
  const restart = { hint: 'end the jail and start it with the new policy' }
  if (before.policy.transparent !== after.policy.transparent)
    throw new JailError('POLICY_INVALID', '"transparent" cannot change in a running jail', restart)
  const ports = (plan: Plan): string => JSON.stringify([plan.network.gateTcp, plan.network.gateUdp])
  if (after.policy.transparent && ports(before) !== ports(after))
    throw new JailError('POLICY_INVALID', 'other inspected ports need new listeners', restart)
  if (isWider(before, after))
    throw new JailError(
      'POLICY_INVALID',
      'the sandbox profile of the running command does not have these ports',
      restart,
    )
}

/** Ports that the seatbelt profile, made at the launch, does not know. */
function isWider(before: Plan, after: Plan): boolean {
  const portsOf = ({ network }: Plan): Set<string> => {
    const direct = [...network.pinned, ...network.kernel].flatMap(({ proto, ports }) =>
      ports.map(({ first, last }) => `${proto} ${String(first)}-${String(last)}`),
    )
    const connect = network.loopbackConnect.map((port) => `connect ${String(port)}`)
    const listen = network.loopbackListen.map((port) => `listen ${String(port)}`)
    return new Set([...direct, ...connect, ...listen])
  }
  const known = portsOf(before)
  return [...portsOf(after)].some((port) => !known.has(port))
}
