/**
 * The words of a denial, in one place: the DNS answer, the HTTP body, the live line, the summary and
 * the log's reader all print what this makes.
 * Invariant: what it suggests is one exact destination, typed before it is printed; it never suggests
 * a wildcard, a range, a metadata address, or text that a shell or YAML would read otherwise.
 */
import { contains } from '../policy/addresses.js'
import { matchHost, normaliseName } from '../policy/hosts.js'
import type { CidrGrant, Deny, Grant, Origin } from '../policy/types.js'
import { type Decision, reasons } from './record.js'
import { findRemedy } from './remedy.js'
import { safeText } from './sanitise.js'

/** What is asked of a policy here; `Policy` and `GatePolicy` both have it. */
export interface ExplainPolicy {
  readonly grants: readonly Grant[]
  readonly cidrs: readonly CidrGrant[]
  readonly denies: readonly Deny[]
}

export interface Explanation {
  /** What was tried: `evil.example:443`, `POST api.example.com/v1/files`, `icmp 192.0.2.1`. */
  readonly what: string
  /** `blocked evil.example:443 (curl, pid 12)`. */
  readonly headline: string
  /** One sentence, without a full stop. */
  readonly why: string
  /** `file:line` of the grant or denial that decided. */
  readonly where?: string
  /** `curl -sS https://evil.example, pid 12`, where the process is known. */
  readonly who?: string
  /** What `agentjail allow` takes to open exactly this. */
  readonly destination?: string
  /** The command that does so in the running jail. */
  readonly allow?: string
  /** The line to add, and under which key of the policy. */
  readonly yaml?: string
  readonly under?: string
  /** Where no grant helps: what would. */
  readonly advice?: string
}

/** Explains one denial of `jail` under `policy`. */
export function explain(
  decision: Decision,
  policy: ExplainPolicy,
  { jail }: { readonly jail: string },
): Explanation {
  const what = describeTarget(decision)
  const origin = decidingOrigin(decision, policy)
  const who = describeProcess(decision)
  return {
    what,
    headline: `blocked ${what}${who === undefined ? '' : ` (${who})`}`,
    ...(who !== undefined && { who }),
    why: reasons[decision.reason] + denyReason(decision, policy) + sharedBy(decision),
    ...(origin && { where: `${origin.file}:${String(origin.line)}` }),
    ...findRemedy(decision, decidingGrant(decision, policy), jail),
  }
}

/** One line: for the DNS answer's text, the live line, and logs read by people. */
export function explainLine(explanation: Explanation): string {
  const { headline, why, where, allow, advice } = explanation
  const next = allow ? `; to allow it: ${allow}` : advice ? `; ${advice}` : ''
  return `${headline}: ${why}${where ? ` (${where})` : ''}${next}`
}

/** Several lines, for the body of a 403 and for people who ask. */
export function explainText(explanation: Explanation): string {
  const { headline, why, where, allow, yaml, under, advice } = explanation
  const lines = [`agentjail ${headline}`, `  why: ${why}`]
  if (where) lines.push(`  decided at: ${where}`)
  if (allow) lines.push(`  to allow it now: ${allow}`)
  if (yaml) lines.push(`  in the policy, under ${under ?? 'network.allow'}: ${yaml}`)
  if (advice) lines.push(`  ${advice}`)
  return `${lines.join('\n')}\n`
}

/** The destination as a person would name it. */
export function describeTarget(decision: Decision): string {
  const { name, address, port, proto, method, path } = decision
  const host = safeText(name ?? address ?? '')
  if (method !== undefined || path !== undefined) {
    return `${safeText(method ?? '?', 32)} ${host}${safeText(path ?? '')}`
  }
  if (host === '') return port === undefined ? proto : `${proto} port ${String(port)}`
  if (decision.layer === 'dns') return host
  if (port === undefined) return `${proto} ${host}`
  const place = `${name === undefined && host.includes(':') ? `[${host}]` : host}:${String(port)}`
  return proto === 'tcp' ? place : `${place}/${proto}`
}

function describeProcess({ pid, command }: Decision): string | undefined {
  const parts = [
    ...(command === undefined ? [] : [safeText(command, 80)]),
    ...(pid === undefined ? [] : [`pid ${String(pid)}`]),
  ]
  return parts.length === 0 ? undefined : parts.join(', ')
}

/** The grant or denial that the decision came from, where one did. */
function decidingOrigin(decision: Decision, policy: ExplainPolicy): Origin | undefined {
  if (decision.reason === 'name-denied' || decision.reason === 'address-denied') {
    return findDeny(decision, policy)?.origin
  }
  return decidingGrant(decision, policy)?.origin
}

function findDeny({ name, address }: Decision, { denies }: ExplainPolicy): Deny | undefined {
  const host = name === undefined ? undefined : normaliseName(name)
  return denies.find(
    (deny) =>
      (deny.host && host !== undefined && matchHost(deny.host, host)) ||
      (deny.cidr && address !== undefined && contains(deny.cidr, address)),
  )
}

function denyReason(decision: Decision, policy: ExplainPolicy): string {
  if (decision.reason !== 'name-denied' && decision.reason !== 'address-denied') return ''
  const reason = findDeny(decision, policy)?.reason
  return reason === undefined ? '' : ` (${safeText(reason)})`
}

/** Of an address alone: whose it is. */
function sharedBy({ name, names }: Decision): string {
  return name !== undefined || names === undefined
    ? ''
    : ` (an address of ${names.map((each) => safeText(each)).join(' and ')})`
}

/** By the grant's id where the gate named it; else the first grant that names the host. */
function decidingGrant(decision: Decision, policy: ExplainPolicy): Grant | undefined {
  const byId = policy.grants.find(({ id }) => id === decision.grant)
  if (byId) return byId
  const host = decision.name === undefined ? undefined : normaliseName(decision.name)
  return host === undefined ? undefined : policy.grants.find((g) => matchHost(g.host, host))
}
