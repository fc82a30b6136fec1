/**
 * Decides where one accepted TCP connection goes, before anything is dialled.
 * Invariant: a route stands on a grant for this very port (or on report mode, for public addresses
 * only); whatever fits nothing is refused.
 */
import type { Socket } from 'node:net'
import type { Layer, ReasonCode } from '../audit/record.js'
import { classifyAddress } from '../policy/addresses.js'
import type { CidrGrant, Grant } from '../policy/types.js'
import type { Grants } from './grants.js'
import type { Names } from './names.js'
import { readHello } from './read-hello.js'

export type Route =
  /** To this very address. */
  | {
      readonly kind: 'address'
      readonly address: string
      readonly grant?: Grant | CidrGrant
      readonly name?: string
      readonly head: Buffer
      readonly layer: Layer
    }
  /** To wherever this name resolves to now. */
  | {
      readonly kind: 'name'
      readonly name: string
      readonly grant?: Grant
      readonly head: Buffer
      readonly layer: Layer
    }
  | { readonly kind: 'loopback'; readonly address: string }
  | { readonly kind: 'https'; readonly name: string; readonly head: Buffer }
  | { readonly kind: 'http'; readonly head: Buffer }
  | {
      readonly kind: 'refused'
      readonly reason: ReasonCode
      readonly layer: Layer
      readonly name?: string
      readonly detail?: string
    }
  /** The client went away without a word: nothing was attempted. */
  | { readonly kind: 'gone' }

const nothing = Buffer.alloc(0)
/** The port of plain HTTP, where the Host of each request decides. */
const httpPort = 80
const httpsPort = 443

/**
 * `destination`: canonical, what the client connected to; absent where the redirect hid it
 * (then only inspected ports come here). The socket must be paused.
 */
export async function chooseRoute(
  socket: Socket,
  destination: string | undefined,
  port: number,
  names: Names,
): Promise<Route> {
  const { grants } = names
  let pinned: readonly (readonly [string, Grant])[] = []
  if (destination !== undefined) {
    if (classifyAddress(destination) === 'loopback') return loopback(destination, port, grants)
    if (grants.isAddressDenied(destination)) return refused('address-denied')
    const byAddress = grants.forAddress(destination, port, 'tcp')
    if (byAddress !== undefined) {
      return {
        kind: 'address',
        address: destination,
        grant: byAddress,
        head: nothing,
        layer: 'tcp',
      }
    }
    pinned = pinnedGrants(names, destination, port, 'tcp')
    if (pinned.length === 0 && !grants.policy.report)
      return refusedAddress(names, destination, port)
    const [first] = pinned
    if (first !== undefined && !pinned.some(([, grant]) => isInspected(grant, port))) {
      const [name, grant] = first
      return { kind: 'address', address: destination, grant, name, head: nothing, layer: 'tcp' }
    }
    if (first === undefined) {
      if (!mayReport(grants, destination)) return refused('address-private')
      // The Host of each request is the name; an address may have several.
      if (port === httpPort && names.pins.namesOf(destination).length > 0) {
        return { kind: 'http', head: nothing }
      }
      // Other protocols may have the server speak first: nothing to wait for.
      if (port !== httpsPort) return reportRoute(names, destination, nothing)
    }
  }
  if (port === httpPort && (pinned.length > 0 || destination === undefined)) {
    return { kind: 'http', head: nothing }
  }
  return await byHello(socket, destination, port, names)
}

/** Names that have this address now, each with a grant for the port that allows the address. */
export function pinnedGrants(
  names: Names,
  address: string,
  port: number,
  proto: 'tcp' | 'udp',
): readonly (readonly [string, Grant])[] {
  return names.pins.namesOf(address).flatMap((name) =>
    names.grants
      .forPort(name, port, proto)
      .filter((grant) => names.grants.addressRefusal(name, address, grant, port) === undefined)
      .map((grant) => [name, grant] as const),
  )
}

function isInspected(grant: Grant, port: number): boolean {
  return port === httpPort || grant.inspect !== 'none'
}

function loopback(destination: string, port: number, grants: Grants): Route {
  if (!grants.policy.loopbackConnect.includes(port)) return refused('port-not-granted')
  return { kind: 'loopback', address: destination.includes(':') ? '::1' : '127.0.0.1' }
}

function refusedAddress(names: Names, address: string, port: number): Route {
  const [name] = names.pins.namesOf(address)
  if (name !== undefined) {
    const reason = names.grants.refusal(name)
    return { kind: 'refused', reason, layer: 'tcp', name }
  }
  if (!names.grants.hasPort(port, 'tcp')) return refused('port-not-granted')
  return refused('address-not-granted')
}

function mayReport(grants: Grants, address: string): boolean {
  return grants.answerRefusal('', address, []) === undefined
}

/** Report mode: nothing grants this, and it is passed and written down. */
function reportRoute(names: Names, address: string, head: Buffer): Route {
  const [name] = names.pins.namesOf(address)
  return { kind: 'address', address, head, layer: 'tcp', ...(name === undefined ? {} : { name }) }
}

/** Reads the ClientHello; its server name decides. */
async function byHello(
  socket: Socket,
  destination: string | undefined,
  port: number,
  names: Names,
): Promise<Route> {
  const { hello, bytes } = await readHello(socket)
  const refuse = (reason: ReasonCode, name?: string, detail?: string): Route => {
    const { grants } = names
    if (grants.policy.report && destination !== undefined && mayReport(grants, destination)) {
      if (name !== undefined && !grants.isDenied(name)) {
        return grants.policy.reportHttp === true
          ? { kind: 'https', name, head: bytes }
          : { kind: 'name', name, head: bytes, layer: 'sni' }
      }
      if (name === undefined) {
        return reportRoute(names, destination, bytes)
      }
    }
    return {
      kind: 'refused',
      reason,
      layer: 'sni',
      ...(name === undefined ? {} : { name }),
      ...(detail === undefined ? {} : { detail }),
    }
  }
  switch (hello.kind) {
    case 'closed':
      return { kind: 'gone' }
    case 'timeout':
      return refuse('timeout')
    case 'unreadable':
      if (looksLikeHttp(bytes) && hasHttpGrant(names, destination, port)) {
        return { kind: 'http', head: bytes }
      }
      return refuse('tls-unreadable', undefined, hello.detail)
    case 'nameless':
      return refuse(hello.ech ? 'ech-refused' : 'sni-missing', undefined, hello.detail)
    case 'hello': {
      const grant = strictest(names.grants.forPort(hello.name, port, 'tcp'))
      if (grant === undefined) {
        if (names.grants.isDenied(hello.name)) return refuse('name-denied', hello.name)
        return refuse(hello.ech ? 'ech-refused' : 'sni-mismatch', hello.name)
      }
      if (grant.inspect === 'http') return { kind: 'https', name: hello.name, head: bytes }
      return { kind: 'name', name: hello.name, grant, head: bytes, layer: 'sni' }
    }
  }
}

/** The most specific pattern wins; among its grants, the one that looks closest. */
export function strictest(grants: readonly Grant[]): Grant | undefined {
  const [first] = grants
  if (first === undefined) return undefined
  const same = grants.filter(
    (grant) => grant.host.kind === first.host.kind && grant.host.name === first.host.name,
  )
  return (
    same.find((grant) => grant.inspect === 'http') ??
    same.find((grant) => grant.inspect === 'sni') ??
    first
  )
}

/** An upper-case method: plain HTTP on a port of its own. */
function looksLikeHttp(bytes: Buffer): boolean {
  return bytes[0] !== undefined && bytes[0] >= 0x41 && bytes[0] <= 0x5a
}

function hasHttpGrant(names: Names, destination: string | undefined, port: number): boolean {
  if (destination !== undefined) {
    return pinnedGrants(names, destination, port, 'tcp').some(
      ([, grant]) => grant.inspect === 'http',
    )
  }
  return names.grants.policy.grants.some(
    (grant) =>
      grant.inspect === 'http' &&
      grant.ports.some((range) => port >= range.first && port <= range.last),
  )
}

function refused(reason: ReasonCode): Route {
  return { kind: 'refused', reason, layer: 'tcp' }
}
