/**
 * network: deny, cidrs, loopback and dns. The grants are in `grants.ts`.
 * Invariant: no CIDR opens what names never open (loopback, metadata, multicast), nor half the internet.
 */
import { classifyAddress, contains, formatCidr, parseAddress, parseCidr } from '../addresses.js'
import { normaliseName, parseHostPattern } from '../hosts.js'
import { type Layer, compact } from '../layer.js'
import { mergePorts, parseGrantPorts, parsePorts } from '../ports.js'
import { type Problem, isProblem, problem, quote } from '../problem.js'
import type { Cidr, CidrGrant, Deny, DnsSettings } from '../types.js'
import { parseDuration } from '../units.js'
import type { Field, Reader } from './reader.js'

/** Shorter prefixes grant too much of the internet to be meant: a /8, and what an IPv6 registry gives a region. */
const shortestPrefix = { 4: 8, 6: 16 } as const

const metadataAddresses = ['169.254.169.254', '100.100.100.200', '168.63.129.16', 'fd00:ec2::254']

export function readCidrGrant(reader: Reader, item: Field): readonly Omit<CidrGrant, 'id'>[] {
  const fields = reader.map(item, 'cidrGrant')
  if (!reader.isMap(item)) return []
  for (const key of ['cidr', 'ports'] as const) {
    if (!fields.has(key)) {
      reader.failAt(
        item,
        `${item.where} has no ${key}`,
        key === 'cidr' ? 'write cidr: 203.0.113.0/24' : 'write ports: [5432]',
      )
    }
  }
  const cidr = reader.parsed(fields.get('cidr'), parseGrantCidr)
  const ports = reader
    .listOrOne(fields.get('ports'))
    .flatMap((field) => reader.parsedNumber(field, parseGrantPorts) ?? [])
  const proto = reader.oneOf(fields.get('proto'), ['tcp', 'udp']) ?? 'tcp'
  return cidr ? [{ cidr, ports: mergePorts(ports), proto, origin: reader.origin(item) }] : []
}

function parseGrantCidr(text: string): Cidr | Problem {
  const cidr = parseCidr(text)
  if (isProblem(cidr)) return cidr
  if (cidr.prefix < shortestPrefix[cidr.family]) {
    return problem(
      `${quote(text)} grants too much of the internet`,
      `at least /${String(shortestPrefix[cidr.family])}; grant names where you can`,
    )
  }
  if (metadataAddresses.some((address) => contains(cidr, address))) {
    const isWhole = /\/(?:32|128)$/.test(text)
    return problem(
      `${quote(text)} ${isWhole ? 'is' : 'has'} a cloud's metadata service${isWhole ? '' : ' in it'}`,
      isWhole
        ? 'it gives out the machine’s own keys: no policy opens it'
        : 'grant a narrower range',
    )
  }
  switch (classifyAddress(cidr.address)) {
    case 'loopback':
      return problem(`${quote(text)} is loopback`, 'write the ports under network.loopback.connect')
    case 'public':
    case 'private':
    case 'shared':
    case 'link-local':
    case 'benchmark':
      return cidr
    default:
      return problem(
        `${quote(text)} is no range of ordinary hosts`,
        'multicast, reserved and translated addresses are never granted',
      )
  }
}

/** A pattern, a CIDR, or a mapping with a reason. */
export function readDeny(reader: Reader, item: Field): readonly Deny[] {
  const origin = reader.origin(item)
  if (!reader.isMap(item)) {
    const what = reader.parsed(item, parseDenied)
    return what ? [{ ...what, origin }] : []
  }
  const fields = reader.map(item, 'deny')
  const [host, cidr] = [fields.get('host'), fields.get('cidr')]
  if ((host === undefined) === (cidr === undefined)) {
    reader.failAt(
      item,
      `${item.where} has ${host ? 'host and cidr' : 'neither host nor cidr'}`,
      'write exactly one of them',
    )
    return []
  }
  const pattern = reader.parsed(host, parseHostPattern)
  const range = reader.parsed(cidr, parseCidr)
  const reason = reader.text(fields.get('reason'))
  if (!pattern && !range) return []
  return [{ ...compact({ host: pattern, cidr: range, reason }), origin }]
}

function parseDenied(text: string): Pick<Deny, 'host' | 'cidr'> | Problem {
  if (parseAddress(text.split('/')[0] ?? '')) {
    const cidr = parseCidr(text)
    return isProblem(cidr) ? cidr : { cidr }
  }
  const host = parseHostPattern(text)
  return isProblem(host) ? host : { host }
}

/** Single ports of the host's loopback. */
export function readLoopback(reader: Reader, field: Field | undefined): Layer['loopback'] {
  if (!field) return { connect: [], listen: [] }
  const fields = reader.map(field, 'loopback')
  const ports = (key: string): readonly number[] =>
    reader
      .listOrOne(fields.get(key))
      .flatMap((item) => reader.parsedNumber(item, parseSinglePort) ?? [])
  return { connect: ports('connect'), listen: ports('listen') }
}

function parseSinglePort(value: string | number): number | Problem {
  const range = parsePorts(value)
  if (isProblem(range)) return range
  return range.first === range.last
    ? range.first
    : problem(`${quote(String(value))} is a range`, 'write each port of the loopback by itself')
}

/** Bounds: a client that keeps an answer longer than its pin would be cut off; one that asks too often floods. */
const ttlBounds = { least: 5, most: 3600 } as const

export function readDns(reader: Reader, field: Field | undefined): Layer['dns'] {
  if (!field) return {}
  const fields = reader.map(field, 'dns')
  const list = (key: string): readonly Field[] | undefined =>
    fields.has(key) ? reader.listOrOne(fields.get(key)) : undefined
  return compact({
    upstream: list('upstream')?.flatMap((item) => reader.parsed(item, parseUpstream) ?? []),
    types: list('types')?.flatMap((item) => reader.oneOf(item, ['A', 'AAAA', 'SRV']) ?? []),
    maxTtl: reader.parsedNumber(fields.get('maxTtl'), bounded(ttlBounds.least, ttlBounds.most)),
    pinExtra: reader.parsedNumber(fields.get('pinExtra'), bounded(0, ttlBounds.most)),
    rate: reader.number(fields.get('rate'), 1, 100_000),
    wildcard: fields.has('wildcard') ? readWildcard(reader, fields.get('wildcard')) : undefined,
    hosts: fields.has('hosts') ? readHosts(reader, fields.get('hosts')) : undefined,
  })
}

function bounded(least: number, most: number) {
  return (value: string | number): number | Problem => {
    const seconds = parseDuration(value)
    if (isProblem(seconds) || (seconds >= least && seconds <= most)) return seconds
    return problem(
      `${String(seconds)} seconds is out of bounds`,
      `write ${String(least)}s to ${String(most)}s`,
    )
  }
}

function readWildcard(
  reader: Reader,
  field: Field | undefined,
): Partial<DnsSettings['wildcard']> | undefined {
  if (!field) return undefined
  const fields = reader.map(field, 'wildcard')
  return compact({
    labels: reader.number(fields.get('labels'), 1, 10),
    labelLength: reader.number(fields.get('labelLength'), 1, 63),
    newNames: reader.number(fields.get('newNames'), 1, 100_000),
  })
}

/** `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53`, `[2001:db8::53]:5353`. */
function parseUpstream(text: string): DnsSettings['upstream'][number] | Problem {
  const bracketed = /^\[([^\]]+)\](?::(\d+))?$/.exec(text)
  const plain = bracketed ?? /^([0-9.]+)(?::(\d+))?$/.exec(text)
  const address = plain?.[1] ?? text
  const cidr = parseCidr(address)
  if (isProblem(cidr) || cidr.prefix !== (cidr.family === 4 ? 32 : 128) || address.includes('/')) {
    return problem(
      `${quote(text)} is not the address of a resolver`,
      'write e.g. 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53',
    )
  }
  const port = parseSinglePort(plain?.[2] ?? 53)
  return isProblem(port) ? port : { address, port }
}

function readHosts(
  reader: Reader,
  field: Field | undefined,
): ReadonlyMap<string, readonly string[]> {
  const hosts = new Map<string, readonly string[]>()
  if (!field) return hosts
  for (const [key, value] of reader.dictionary(field)) {
    const name = normaliseName(key)
    if (name === undefined) {
      reader.fail(
        reader.originAt(value.at.range?.[0] ?? 0),
        `${quote(key)} is not a host name`,
        'write a full name without wildcards',
      )
      continue
    }
    const addresses = reader
      .listOrOne(value)
      .flatMap((item) => reader.parsed(item, parseFixedAddress) ?? [])
    hosts.set(name, addresses)
  }
  return hosts
}

function parseFixedAddress(text: string): string | Problem {
  const cidr = parseCidr(text)
  if (isProblem(cidr)) return cidr
  return text.includes('/')
    ? problem(`${quote(text)} is a range`, 'write one address')
    : formatCidr(cidr)
}
