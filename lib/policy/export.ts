/**
 * A resolved policy back to a file: all that was composed, in one YAML text without `extends`.
 * Invariant: parsing the text gives the same policy (ids and origins aside).
 */
import { stringify } from 'yaml'
import { formatCidr } from './addresses.js'
import { formatHost } from './hosts.js'
import { omit } from './layer.js'
import { formatPorts } from './ports.js'
import type {
  Credential,
  CredentialPlace,
  CredentialSource,
  Grant,
  Limits,
  Policy,
  PortRange,
} from './types.js'
import { formatDuration, formatSize } from './units.js'

type Plain = Readonly<Record<string, unknown>>

export function exportPolicy(policy: Policy): string {
  const document = prune({
    version: 1,
    name: /^[a-z][a-z0-9-]{0,62}$/.test(policy.name) ? policy.name : undefined,
    description: policy.description,
    isolation: policy.isolation,
    network: {
      report: policy.report || undefined,
      allow: policy.grants.map(exportGrant),
      deny: policy.denies.map((deny) => ({
        host: deny.host && formatHost(deny.host),
        cidr: deny.cidr && formatCidr(deny.cidr),
        reason: deny.reason,
      })),
      cidrs: policy.cidrs.map((grant) => ({
        cidr: formatCidr(grant.cidr),
        ports: exportPorts(grant.ports),
        proto: grant.proto,
      })),
      loopback: policy.loopback,
      ipv6: policy.ipv6,
      dns: {
        ...policy.dns,
        upstream: policy.dns.upstream.map(({ address, port }) =>
          address.includes(':') ? `[${address}]:${String(port)}` : `${address}:${String(port)}`,
        ),
        maxTtl: formatDuration(policy.dns.maxTtl),
        pinExtra: formatDuration(policy.dns.pinExtra),
        hosts: Object.fromEntries(policy.dns.hosts),
      },
    },
    credentials: Object.fromEntries(
      [...policy.credentials].map(([id, credential]) => [id, exportCredential(credential)]),
    ),
    env: { pass: policy.env.pass, set: Object.fromEntries(policy.env.set) },
    fs: policy.fs,
    limits: exportLimits(policy.limits),
    userNamespaces: policy.userNamespaces || undefined,
    transparent: policy.transparent || undefined,
  })
  return stringify(document, { aliasDuplicateObjects: false, lineWidth: 0 })
}

/** A bare number has no unit, and is refused. */
function exportLimits({ memory, tmp, egressBytes, time, ...counts }: Limits): Plain {
  const size = (bytes: number | undefined) => (bytes === undefined ? undefined : formatSize(bytes))
  return {
    ...counts,
    memory: size(memory),
    tmp: size(tmp),
    egressBytes: size(egressBytes),
    time: time === undefined ? undefined : formatDuration(time),
  }
}

function exportGrant(grant: Grant): Plain {
  return {
    host: formatHost(grant.host),
    ports: exportPorts(grant.ports),
    proto: grant.proto === 'tcp' ? undefined : grant.proto,
    inspect: grant.inspect,
    access: grant.access === 'full' ? undefined : grant.access,
    rules: grant.rules,
    within: grant.within.map(formatCidr),
    private: grant.private || undefined,
    credential: grant.credential,
    limits: grant.limits,
    reason: grant.reason,
  }
}

function exportPorts(ranges: readonly PortRange[]): readonly (number | string)[] {
  return ranges.map((range) => (range.first === range.last ? range.first : formatPorts(range)))
}

function exportCredential(credential: Credential): Plain {
  const { from, in: place } = credential
  const rest = omit(credential, 'id', 'origin', 'from', 'in')
  const isSetByDefault = ['path', 'basic'].includes(place.kind) && rest.format === '{}'
  return {
    ...rest,
    from: exportSource(from),
    in: formatPlace(place),
    format: isSetByDefault ? undefined : rest.format,
    optional: rest.optional || undefined,
  }
}

function exportSource(source: CredentialSource): unknown {
  return source.kind === 'exec' ? { exec: source.argv } : formatSource(source)
}

/** The source as a person reads it; never the value. */
export function formatSource(source: CredentialSource): string {
  switch (source.kind) {
    case 'env':
    case 'systemd':
      return `${source.kind}:${source.name}`
    case 'file':
      return `file:${source.path}`
    case 'exec':
      return `exec:${source.argv.join(' ')}`
    case 'keychain':
      return `keychain:${source.item}`
  }
}

export function formatPlace(place: CredentialPlace): string {
  switch (place.kind) {
    case 'header':
    case 'query':
    case 'body':
      return `${place.kind}:${place.name}`
    case 'path':
      return place.prefix === '' ? 'path' : `path:${place.prefix}`
    case 'basic':
      return 'basic'
  }
}

/** Without undefined members, and without lists and mappings that are empty. */
function prune(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(prune)
  if (typeof value !== 'object' || value === null) return value
  const members = Object.entries(value)
    .map(([key, member]) => [key, prune(member)] as const)
    .filter(([, member]) => member !== undefined && !isEmpty(member))
  return Object.fromEntries(members)
}

function isEmpty(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0
}
