/**
 * What the warden takes of a gate's request for a pin.
 * Invariant: an address goes into the kernel only for a grant that exists, and never a private or own one unasked.
 */
import { errorMessage, JailError } from '../errors.js'
import type { GatePolicy, PinRequest } from '../gate/protocol.js'
import type { NetworkHold, Pin } from '../backend/types.js'
import { canonicalAddress, classifyAddress, contains } from '../policy/addresses.js'

const maxPins = 64
const maxSeconds = 3600

/** Puts it into the kernel: true once it is in force. What is refused is told. */
export async function takePin(
  request: PinRequest,
  hold: Pick<NetworkHold, 'pin'> | undefined,
  policy: GatePolicy,
  hostAddresses: readonly string[],
  onNotice: (text: string) => void,
): Promise<boolean> {
  try {
    await hold?.pin(checkPin(request, policy, hostAddresses))
    return true
  } catch (error) {
    onNotice(`a pin was refused: ${errorMessage(error)}`)
    return false
  }
}

/** Throws on anything that the policy does not cover: the gate parses what strangers send, and may be theirs. */
export function checkPin(
  request: PinRequest,
  policy: GatePolicy,
  hostAddresses: readonly string[],
): Pin[] {
  const bad = (why: string): JailError => new JailError('GATE', why)
  const grant = policy.grants.find(({ id }) => id === request.grant)
  if (grant === undefined) throw bad('no such grant')
  const pins: readonly { address: unknown; seconds: unknown }[] = request.pins
  if (!Array.isArray(pins) || pins.length > maxPins) throw bad('too many addresses')
  return request.pins.map(({ address, seconds }): Pin => {
    if (typeof address !== 'string' || canonicalAddress(address) !== address)
      throw bad('not an address')
    if (!Number.isInteger(seconds) || seconds < 1 || seconds > maxSeconds) throw bad('not a time')
    if (
      !grant.private &&
      (classifyAddress(address) !== 'public' || hostAddresses.includes(address))
    ) {
      throw bad(`${address} is not a public address`)
    }
    if (grant.within.length > 0 && !grant.within.some((cidr) => contains(cidr, address))) {
      throw bad(`${address} is outside the ranges of grant ${grant.id}`)
    }
    return { address, grant: grant.id, seconds }
  })
}
