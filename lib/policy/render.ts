/**
 * A policy in words, for `agentjail policy show`.
 * Invariant: everything that the policy opens is in there, each with the line that opens it.
 */
import { formatCidr } from './addresses.js'
import { formatPlace, formatSource } from './export.js'
import { formatHost } from './hosts.js'
import { formatPorts } from './ports.js'
import type { Credential, Grant, HttpRule, Limits, Origin, Policy, PortRange } from './types.js'
import { formatDuration, formatSize } from './units.js'

type Row = readonly string[]

export function renderPolicy(policy: Policy): string {
  const sections: readonly (readonly [string, readonly string[]])[] = [
    ['may reach', [...table(policy.grants.flatMap(grantRows)), ...openAddresses(policy)]],
    ['never', table(policy.denies.map(denyRow))],
    ['keys', table([...policy.credentials.values()].map(credentialRow))],
    ['environment', environment(policy)],
    ['files', files(policy)],
    ['limits', limits(policy.limits)],
    ['DNS', dns(policy)],
  ]
  const flags = [
    `isolation ${policy.isolation}`,
    ...(policy.report ? ['report only: names are logged, not refused'] : []),
    ...(policy.ipv6 ? [] : ['no IPv6']),
    ...(policy.userNamespaces ? ['may create user namespaces'] : []),
    ...(policy.transparent ? ['transparent'] : []),
  ]
  const head = [
    `${policy.name} (${policy.source}): ${flags.join(', ')}`,
    ...(policy.description === undefined ? [] : [policy.description]),
  ]
  const body = sections
    .filter(([, lines]) => lines.length > 0)
    .flatMap(([title, lines]) => ['', title, ...lines.map((line) => `  ${line}`)])
  return `${[...head, ...body].join('\n')}\n`
}

function grantRows(grant: Grant): readonly Row[] {
  const inspection = {
    none: 'by address',
    sni: 'name proved',
    http: 'requests inspected',
  }[grant.inspect]
  const facts = [
    inspection,
    ...(grant.access === 'full' ? [] : [grant.access]),
    ...(grant.credential === undefined ? [] : [`key ${grant.credential}`]),
    ...(grant.private ? ['private addresses too'] : []),
    ...(grant.within.length === 0 ? [] : [`within ${grant.within.map(formatCidr).join(' ')}`]),
    ...grantLimits(grant),
    ...(grant.reason === undefined ? [] : [grant.reason]),
  ]
  return [
    [
      formatHost(grant.host),
      portList(grant.ports, grant.proto),
      facts.join(', '),
      place(grant.origin),
    ],
    ...grant.rules.map((rule) => [`  ${rule.method} ${rule.path}`, '', ruleFacts(rule), '']),
  ]
}

function ruleFacts(rule: HttpRule): string {
  const choices = (of: Readonly<Record<string, readonly unknown[]>> | undefined): string[] =>
    Object.entries(of ?? {}).map(([name, values]) => `${name} = ${values.map(String).join(' | ')}`)
  return [
    ...choices(rule.query),
    ...choices(rule.json),
    ...(rule.maxBody === undefined ? [] : [`body up to ${formatSize(rule.maxBody)}`]),
  ].join(', ')
}

function grantLimits({ limits: { conns, rps, uploadBytes } }: Grant): readonly string[] {
  return [
    ...(conns === undefined ? [] : [`${String(conns)} connections`]),
    ...(rps === undefined ? [] : [`${String(rps)} a second`]),
    ...(uploadBytes === undefined ? [] : [`${formatSize(uploadBytes)} up`]),
  ]
}

function openAddresses(policy: Policy): readonly string[] {
  const { connect, listen } = policy.loopback
  return [
    ...table(
      policy.cidrs.map((grant) => [
        formatCidr(grant.cidr),
        portList(grant.ports, grant.proto),
        'by address',
        place(grant.origin),
      ]),
    ),
    ...(connect.length === 0 ? [] : [`the host's loopback, ports ${connect.join(' ')}`]),
    ...(listen.length === 0
      ? []
      : [`is reached from the host's loopback, ports ${listen.join(' ')}`]),
  ]
}

function denyRow(deny: Policy['denies'][number]): Row {
  const what = deny.host ? formatHost(deny.host) : deny.cidr ? formatCidr(deny.cidr) : ''
  return [what, deny.reason ?? '', place(deny.origin)]
}

function credentialRow(credential: Credential): Row {
  const how = credential.mode === 'pin' ? 'no other key may travel' : 'the command never holds it'
  return [
    credential.id,
    `from ${formatSource(credential.from)}`,
    `in ${formatPlace(credential.in)}`,
    `${credential.mode}: ${how}${credential.optional ? '; without a value names are proved only' : ''}`,
  ]
}

function environment({ env }: Policy): readonly string[] {
  return [
    ...(env.pass.length === 0 ? [] : [`passed: ${env.pass.join(' ')}`]),
    ...[...env.set].map(([name, value]) => `${name}=${value}`),
  ]
}

function files({ fs }: Policy): readonly string[] {
  const lists = [
    ['read', fs.read],
    ['write', fs.write],
    ['hidden', fs.deny],
  ] as const
  return table(
    lists.filter(([, paths]) => paths.length > 0).map(([word, paths]) => [word, paths.join(' ')]),
  )
}

function limits(of: Limits): readonly string[] {
  const rows: readonly (readonly [string, string | undefined])[] = [
    ['memory', of.memory === undefined ? undefined : formatSize(of.memory)],
    ['cpu', of.cpu?.toString()],
    ['processes', of.pids?.toString()],
    ['open files', of.openFiles?.toString()],
    ['/tmp', of.tmp === undefined ? undefined : formatSize(of.tmp)],
    ['time', of.time === undefined ? undefined : formatDuration(of.time)],
    ['upload', of.egressBytes === undefined ? undefined : formatSize(of.egressBytes)],
  ]
  return table(rows.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])))
}

function dns({ dns }: Policy): readonly string[] {
  return [
    ...(dns.upstream.length === 0
      ? []
      : [
          `asked of ${dns.upstream.map(({ address, port }) => `${address} port ${String(port)}`).join(', ')}`,
        ]),
    ...[...dns.hosts].map(([name, addresses]) => `${name} is ${addresses.join(' ')}`),
  ]
}

function portList(ranges: readonly PortRange[], proto: 'tcp' | 'udp'): string {
  return `${proto} ${ranges.map(formatPorts).join(' ')}`
}

function place({ file, line }: Origin): string {
  return `${file}:${String(line)}`
}

/** Columns lined up with two spaces between; no trailing space. */
function table(rows: readonly Row[]): readonly string[] {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)))
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}
