/**
 * What would open a denial: the command, the line of the policy, or else advice. Pure.
 * Invariant: one exact destination, typed before it is printed; never a wildcard, a range, a metadata
 * address, or text that a shell or YAML would read otherwise.
 */
import { canonicalAddress, classifyAddress } from '../policy/addresses.js'
import { formatHost, normaliseName } from '../policy/hosts.js'
import type { Grant } from '../policy/types.js'
import type { Decision, ReasonCode } from './record.js'

/** What opens a denial, or what else would help. */
export interface Remedy {
  /** What `agentjail allow` takes, as a shell's word: a name or address, with its port where it is not 443. */
  readonly destination?: string
  /** The command that opens it in the running jail. */
  readonly allow?: string
  readonly yaml?: string
  readonly under?: string
  readonly advice?: string
}

/** @param grant the grant that decided, or that names the host */
export function findRemedy(decision: Decision, grant: Grant | undefined, jail: string): Remedy {
  const of = grant ? `the grant of ${formatHost(grant.host)}` : 'the grant'
  switch (decision.reason) {
    case 'name-not-granted':
    case 'port-not-granted':
    case 'address-not-granted':
    case 'protocol-not-granted':
    case 'sni-mismatch':
    case 'host-mismatch':
    case 'grant-withdrawn':
      return grantRemedy(decision, jail)
    case 'address-private':
      return privateRemedy(decision, grant, jail)
    case 'name-denied':
    case 'address-denied':
      return { advice: 'a denial wins over every grant: to open it, remove that line' }
    case 'method-not-granted':
    case 'path-not-granted':
      return ruleRemedy(decision, of)
    default:
      return { advice: adviceFor[decision.reason].replace('{grant}', of) }
  }
}

type Advised = Exclude<
  ReasonCode,
  | 'name-not-granted'
  | 'port-not-granted'
  | 'address-not-granted'
  | 'protocol-not-granted'
  | 'sni-mismatch'
  | 'host-mismatch'
  | 'grant-withdrawn'
  | 'address-private'
  | 'name-denied'
  | 'address-denied'
  | 'method-not-granted'
  | 'path-not-granted'
>

const adviceFor: Readonly<Record<Advised, string>> = {
  granted: 'nothing to do',
  'address-outside-within':
    'if the vendor has published a new range, add it to `within` of {grant}',
  'record-type-refused': 'programs need only A and AAAA; SRV can be granted with `dns.types`',
  'query-malformed': 'the query is not plain DNS: nothing grants it',
  'query-rate': 'if the command is honest, raise `dns.rate`',
  'wildcard-budget': 'grant the names it needs one by one, or raise `dns.wildcard`',
  'upstream-failed': 'check that the name exists and that this host can resolve it',
  'dial-failed': 'check that this host itself reaches it',
  'sni-missing': 'use a client that sends the server name; or set `inspect: none` on {grant}',
  'tls-unreadable': 'if this is not TLS, set `inspect: none` on {grant}',
  'ech-refused': 'switch encrypted client hello off in the program',
  'http-malformed': 'use a client that sends plain, unambiguous HTTP',
  'body-too-large': 'raise `maxBody` of the rule in {grant}',
  'body-not-granted': 'add the value to `json` of the rule in {grant}',
  'credential-mismatch': "use the policy's own key: another account's is never let through",
  'credential-missing': 'send the key that the policy names for this host',
  'credential-extra': 'send the one credential that the policy names, and no cookie',
  'credential-elsewhere': 'the key belongs to another host: look at what tried to send it here',
  'upstream-certificate': "check the destination's certificate and this host's clock",
  'budget-upload': 'raise `limits.uploadBytes` of {grant}, or `limits.egressBytes`',
  'budget-rate': 'raise `limits.rps` of {grant}',
  'budget-connections': 'raise `limits.conns` of {grant}',
  timeout: 'the program connected and sent nothing: try again',
}

/** A grant of exactly this name, or of exactly this address where no name is known. */
function grantRemedy(decision: Decision, jail: string): Remedy {
  const { proto, layer } = decision
  if (proto !== 'tcp' && proto !== 'udp') return { advice: 'only tcp and udp can be granted' }
  // A look-up does not say which port comes next; 443 is what a bare name grants.
  const port = layer === 'dns' ? 443 : (decision.port ?? 443)
  const isUdp = proto === 'udp' && layer !== 'dns'
  if (decision.name !== undefined) {
    const name = normaliseName(decision.name)
    if (name === undefined)
      return { advice: 'use the full name of the host: only such are granted' }
    if (isUdp && port === 443) return { advice: 'QUIC is not granted by default: clients take TCP' }
    const suffix = `${port === 443 ? '' : `:${String(port)}`}${isUdp ? '/udp' : ''}`
    return {
      ...allowing(jail, `${name}${suffix}`),
      under: 'network.allow',
      yaml: isUdp
        ? `- {host: ${yamlText(name)}, ports: [${String(port)}], proto: udp}`
        : `- ${yamlText(port === 443 ? name : `${name}:${String(port)}`)}`,
    }
  }
  const names = (decision.names ?? []).flatMap((name) => normaliseName(name) ?? [])
  if (names.length > 0) {
    const tail = `:${String(port)}${isUdp ? '/udp' : ''}`
    return { advice: `grant the one that was meant: ${names.map((n) => n + tail).join(' or ')}` }
  }
  return addressRemedy(decision.address, port, isUdp, jail)
}

function allowing(jail: string, destination: string): Pick<Remedy, 'allow' | 'destination'> {
  // A shell may read brackets as a pattern.
  const word = destination.startsWith('[') ? `'${destination}'` : destination
  return { destination: word, allow: `agentjail allow ${jail} ${word}` }
}

function addressRemedy(
  given: string | undefined,
  port: number,
  isUdp: boolean,
  jail: string,
): Remedy {
  const address = given === undefined ? undefined : canonicalAddress(given)
  if (address === undefined) return { advice: 'no destination is known to grant' }
  const kind = classifyAddress(address)
  if (kind === 'loopback') {
    if (isUdp) return { advice: 'only TCP ports of the host’s loopback can be granted' }
    return {
      ...allowing(jail, `localhost:${String(port)}`),
      under: 'network.allow',
      yaml: `- localhost:${String(port)}`,
    }
  }
  if (kind !== 'public' && kind !== 'private' && kind !== 'shared') {
    return { advice: `${kind} addresses are never suggested` }
  }
  const isV6 = address.includes(':')
  const place = `${isV6 ? `[${address}]` : address}:${String(port)}`
  const tail = `ports: [${String(port)}]${isUdp ? ', proto: udp' : ''}`
  return {
    ...allowing(jail, `${place}${isUdp ? '/udp' : ''}`),
    under: 'network.cidrs',
    yaml: `- {cidr: '${address}/${isV6 ? '128' : '32'}', ${tail}}`,
  }
}

/** A granted name with a private address: open only for an exact name, and only by the policy. */
function privateRemedy(decision: Decision, grant: Grant | undefined, jail: string): Remedy {
  const { address } = decision
  const kind = address === undefined ? 'private' : classifyAddress(address)
  if (kind !== 'private' && kind !== 'shared' && kind !== 'loopback') {
    return { advice: `${kind} addresses are never suggested` }
  }
  if (decision.name === undefined) return grantRemedy(decision, jail)
  if (kind === 'loopback') {
    return { advice: 'a name must not lead to loopback: grant localhost:PORT if that is meant' }
  }
  if (grant?.host.kind !== 'exact') {
    return { advice: 'if it is yours, grant the exact name with `private: true`' }
  }
  return {
    under: 'network.allow',
    yaml: `- {host: ${yamlText(grant.host.name)}, private: true}`,
    advice: 'only if that private address is the one you mean',
  }
}

/** One rule more in the grant, with the path as it was: only plain characters, so no glob. */
function ruleRemedy({ method, path }: Decision, of: string): Remedy {
  const isPlain =
    method !== undefined &&
    path !== undefined &&
    /^[A-Z]{1,16}$/.test(method) &&
    /^\/[A-Za-z0-9/._~-]{0,200}$/.test(path)
  if (!isPlain) return { advice: `add a rule for this method and path to ${of}` }
  return { under: `rules of ${of}`, yaml: `- {method: ${method}, path: ${yamlText(path)}}` }
}

/** Plain where YAML can only read a string (`1.e5` is a number, `a.b:1` is not a mapping). */
function yamlText(value: string): string {
  return /^[a-z/][a-z0-9./:_~-]*$/i.test(value) && !value.endsWith(':') ? value : `'${value}'`
}
