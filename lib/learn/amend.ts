/**
 * One destination into, or out of, a policy in force. Pure.
 * Invariant: `allowIn` opens exactly that destination; after `denyIn` nothing of the policy opens it,
 * or it throws; ids of the grants that stay do not change.
 */
import { JailError } from '../errors.js'
import { contains, formatCidr } from '../policy/addresses.js'
import { formatHost, matchHost } from '../policy/hosts.js'
import { hasPort, inRange, splitPorts } from '../policy/ports.js'
import type { CidrGrant, Deny, Grant, HostPattern, Origin, Policy } from '../policy/types.js'
import type { Destination } from './destination.js'

/** What origins of denials made by `agentjail deny` name. */
const denySource = 'agentjail deny'

export interface Amended {
  readonly policy: Policy
  /** False: the policy says so already, see `why`. */
  readonly changed: boolean
  /** One line for the user, without a full stop. */
  readonly why: string
}

/** @throws JailError USAGE where a denial of the policy would win anyway. */
export function allowIn(policy: Policy, destination: Destination): Amended {
  const { text } = destination
  const [port] = destination.loopback
  if (port !== undefined) {
    const { connect } = policy.loopback
    if (connect.includes(port)) return unchanged(policy, `${text} is open already`)
    const loopback = { ...policy.loopback, connect: [...connect, port] }
    return changed({ ...policy, loopback }, `${text} is open`)
  }
  const lifted = liftOwnDenials(policy, destination)
  const denial = lifted.denies.find((deny) => denies(deny, destination))
  if (denial !== undefined) {
    throw new JailError('USAGE', `${text} is denied at ${at(denial.origin)}, and a denial wins`, {
      hint: 'remove that line and reload',
    })
  }
  const open = grantOf(lifted, destination)
  if (open !== undefined) {
    const why = `${text} is granted already, at ${at(open.origin)}`
    return lifted === policy ? unchanged(policy, why) : changed(lifted, `${text} is open again`)
  }
  const id = freshId(policy)
  const [grant] = destination.grants
  if (grant !== undefined) {
    const grants = [...lifted.grants, { ...withoutPlace(grant), id }]
    return changed({ ...lifted, grants }, `${text} is open`)
  }
  const cidrs = [...lifted.cidrs, ...destination.cidrs.map((each) => ({ ...each, id }))]
  return changed({ ...lifted, cidrs }, `${text} is open`)
}

/** @throws JailError USAGE where a wider grant keeps one port open that alone was named. */
export function denyIn(policy: Policy, destination: Destination): Amended {
  const { text } = destination
  const [port] = destination.loopback
  if (port !== undefined) {
    const connect = policy.loopback.connect.filter((open) => open !== port)
    if (connect.length === policy.loopback.connect.length) return notOpen(policy, text)
    const loopback = { ...policy.loopback, connect }
    return changed({ ...policy, loopback }, `${text} is closed`)
  }
  const grants = withdraw(policy.grants, destination, (grant) =>
    destination.grants.some((own) => sameHost(own.host, grant.host)),
  )
  const cidrs = withdraw(policy.cidrs, destination, (grant) =>
    destination.cidrs.some((own) => formatCidr(own.cidr) === formatCidr(grant.cidr)),
  )
  const less = { ...policy, grants, cidrs }
  const shown = destination.hasPort ? text : text.replace(/:443(?:\/udp)?$/, '')
  const wider = widerGrant(less, destination)
  if (wider === undefined) {
    const same = grants.length === policy.grants.length && cidrs.length === policy.cidrs.length
    const isSame =
      same &&
      grants.every((grant, i) => grant === policy.grants[i]) &&
      cidrs.every((grant, i) => grant === policy.cidrs[i])
    return isSame ? notOpen(policy, shown) : changed(less, `${shown} is closed`)
  }
  if (policy.denies.some((deny) => denies(deny, destination))) return notOpen(policy, shown)
  if (destination.hasPort) {
    const bare = text.replace(/:[0-9]+(?:\/udp)?$/, '')
    throw new JailError('USAGE', `${text} stays open by the wider grant at ${at(wider.origin)}`, {
      hint: `deny the host on every port: agentjail deny NAME ${bare}; or edit the policy and reload`,
    })
  }
  const denials = [...policy.denies, ...denialsOf(destination)]
  return changed({ ...less, denies: denials }, `${shown} is closed`)
}

function denialsOf({ grants, cidrs }: Destination): readonly Deny[] {
  const origin: Origin = { file: denySource, line: 1, column: 1 }
  return [
    ...grants.map(({ host }) => ({ host, origin })),
    ...cidrs.map(({ cidr }) => ({ cidr, origin })),
  ]
}

/** Denials that `agentjail deny` made for this very destination go when it is allowed again. */
function liftOwnDenials(policy: Policy, destination: Destination): Policy {
  const kept = policy.denies.filter(
    (deny) => deny.origin.file !== denySource || !denies(deny, destination),
  )
  return kept.length === policy.denies.length ? policy : { ...policy, denies: kept }
}

function denies(deny: Deny, { grants, cidrs }: Destination): boolean {
  const { host, cidr } = deny
  if (host !== undefined) return grants.some((grant) => covers(host, grant.host))
  return (
    cidr !== undefined &&
    cidrs.some((grant) => cidr.prefix <= grant.cidr.prefix && contains(cidr, grant.cidr.address))
  )
}

/** The grant that opens the destination as it is. */
function grantOf(policy: Policy, { grants, cidrs }: Destination): Grant | CidrGrant | undefined {
  const [name] = grants
  const [address] = cidrs
  if (name !== undefined) {
    const port = name.ports[0]?.first ?? 0
    return policy.grants.find(
      (grant) =>
        grant.proto === name.proto && hasPort(grant.ports, port) && covers(grant.host, name.host),
    )
  }
  if (address === undefined) return undefined
  const port = address.ports[0]?.first ?? 0
  return policy.cidrs.find(
    (grant) =>
      grant.proto === address.proto &&
      hasPort(grant.ports, port) &&
      grant.cidr.prefix <= address.cidr.prefix &&
      contains(grant.cidr, address.cidr.address),
  )
}

/** After the destination's own grants are gone: what still opens it, on its port or on any. */
function widerGrant(policy: Policy, destination: Destination): Grant | CidrGrant | undefined {
  if (destination.hasPort) return grantOf(policy, destination)
  const [name] = destination.grants
  const [address] = destination.cidrs
  if (name !== undefined) return policy.grants.find((grant) => covers(grant.host, name.host))
  if (address === undefined) return undefined
  return policy.cidrs.find((grant) => contains(grant.cidr, address.cidr.address))
}

/** Takes the port (or all, where none was named) from the grants that are the destination's own. */
function withdraw<G extends Grant | CidrGrant>(
  grants: readonly G[],
  destination: Destination,
  isOwn: (grant: G) => boolean,
): readonly G[] {
  const own = destination.grants[0] ?? destination.cidrs[0]
  const port = own?.ports[0]?.first ?? 0
  return grants.flatMap((grant): G[] => {
    if (!isOwn(grant)) return [grant]
    if (!destination.hasPort) return []
    if (grant.proto !== own?.proto || !grant.ports.some((range) => inRange(range, port))) {
      return [grant]
    }
    const { others } = splitPorts(grant.ports, [port])
    return others.length === 0 ? [] : [{ ...grant, ports: others }]
  })
}

/** Whether every name of `inner` is one of `outer`. */
function covers(outer: HostPattern, inner: HostPattern): boolean {
  if (inner.kind === 'exact') return matchHost(outer, inner.name)
  if (sameHost(outer, inner)) return true
  if (outer.kind !== 'many') return false
  return inner.name === outer.name || inner.name.endsWith(`.${outer.name}`)
}

function sameHost(a: HostPattern, b: HostPattern): boolean {
  return formatHost(a) === formatHost(b)
}

function freshId(policy: Policy): string {
  const numbers = [...policy.grants, ...policy.cidrs].map(({ id }) => Number(id.slice(1)) || 0)
  return `g${String(Math.max(0, ...numbers) + 1)}`
}

function withoutPlace<T extends object>(grant: T): Omit<T, 'credentialOrigin'> {
  const copy = { ...grant }
  Reflect.deleteProperty(copy, 'credentialOrigin')
  return copy
}

function at({ file, line }: Origin): string {
  return file.startsWith('agentjail ') ? file : `${file}:${String(line)}`
}

const changed = (policy: Policy, why: string): Amended => ({ policy, changed: true, why })
const unchanged = (policy: Policy, why: string): Amended => ({ policy, changed: false, why })
const notOpen = (policy: Policy, text: string): Amended => unchanged(policy, `${text} was not open`)
