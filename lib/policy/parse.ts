/**
 * One policy file: text to a layer, or all of its mistakes with their places.
 * Invariant: a layer comes out only when there was no mistake at all.
 */
import { formatCidr } from './addresses.js'
import { formatHost } from './hosts.js'
import { type ExtendsRef, type Layer, type LayerGrant, compact } from './layer.js'
import { overlap } from './ports.js'
import { type Problem, problem, quote } from './problem.js'
import { readCredentials } from './read/credentials.js'
import { readDocument } from './read/document.js'
import { readAllow } from './read/grants.js'
import { readCidrGrant, readDeny, readDns, readLoopback } from './read/network.js'
import type { Field, PolicyProblem, Reader } from './read/reader.js'
import { readEnv, readFs, readLimits } from './read/settings.js'

export type { PolicyProblem } from './read/reader.js'

export type Parsed =
  | { readonly layer: Layer; readonly problems?: never; readonly bases?: never }
  | {
      readonly layer?: never
      readonly problems: readonly PolicyProblem[]
      /** What the file extends all the same, so that the mistakes of its bases are told along. */
      readonly bases: readonly ExtendsRef[]
    }

/** `file:line:column: what is wrong; what would be right`. */
export function formatProblem({ origin, problem, hint }: PolicyProblem): string {
  return `${origin.file}:${String(origin.line)}:${String(origin.column)}: ${problem}; ${hint}`
}

/** @param source - The path or `bundle:NAME` that messages and origins carry. */
export function parsePolicy(text: string, source: string): Parsed {
  const { reader, root } = readDocument(text, source)
  if (!root) return { problems: inOrder(reader.problems), bases: [] }
  const layer = readLayer(reader, root, source)
  if (reader.problems.length === 0) return { layer }
  return { problems: inOrder(reader.problems), bases: layer.extends }
}

function inOrder(problems: readonly PolicyProblem[]): readonly PolicyProblem[] {
  return [...problems].sort(
    (a, b) => a.origin.line - b.origin.line || a.origin.column - b.origin.column,
  )
}

function readLayer(reader: Reader, root: Field, source: string): Layer {
  const fields = reader.map(root, 'policy')
  if (reader.isMap(root)) checkVersion(reader, root, fields.get('version'))
  const network = fields.get('network')
  const net: ReadonlyMap<string, Field> = network ? reader.map(network, 'network') : new Map()
  const allowed = reader.list(net.get('allow')).map((item) => readAllow(reader, item))
  const loopback = readLoopback(reader, net.get('loopback'))
  const layer: Layer = {
    source,
    extends: reader.listOrOne(fields.get('extends')).flatMap((item) => {
      const ref = reader.text(item)
      return ref === undefined ? [] : [{ ref, origin: reader.origin(item) }]
    }),
    grants: allowed.flatMap((a) => a.grants),
    cidrs: reader.list(net.get('cidrs')).flatMap((item) => readCidrGrant(reader, item)),
    denies: reader.list(net.get('deny')).flatMap((item) => readDeny(reader, item)),
    loopback: {
      connect: [...loopback.connect, ...allowed.flatMap((a) => a.loopback)],
      listen: loopback.listen,
    },
    dns: readDns(reader, net.get('dns')),
    credentials: readCredentials(reader, fields.get('credentials')),
    env: readEnv(reader, fields.get('env')),
    fs: readFs(reader, fields.get('fs')),
    limits: readLimits(reader, fields.get('limits')),
    ...compact({
      name: reader.parsed(fields.get('name'), parsePolicyName),
      description: reader.text(fields.get('description')),
      isolation: reader.oneOf(fields.get('isolation'), ['namespace', 'uid', 'basic']),
      report: reader.bool(net.get('report')),
      ipv6: reader.bool(net.get('ipv6')),
      userNamespaces: reader.bool(fields.get('userNamespaces')),
      transparent: reader.bool(fields.get('transparent')),
    }),
  }
  checkGrants(reader, layer)
  return layer
}

function checkVersion(reader: Reader, root: Field, version: Field | undefined): void {
  const text = version && reader.scalar(version)
  if (text === 1) return
  reader.failAt(
    version ?? root,
    version ? `version is ${quote(String(text))}` : 'the policy has no version',
    'write version: 1',
  )
}

function parsePolicyName(text: string): string | Problem {
  if (/^[a-z][a-z0-9-]{0,62}$/.test(text)) return text
  return problem(
    `${quote(text)} is not a policy's name`,
    'write lower-case letters, digits and hyphens, a letter first, at most 63',
  )
}

/** Entries of one file that say the same twice, or take each other back. */
function checkGrants(reader: Reader, layer: Layer): void {
  const seen = new Map<string, LayerGrant[]>()
  for (const grant of layer.grants) {
    const host = formatHost(grant.host)
    const before = seen.get(host) ?? []
    const earlier = before.find(
      (other) =>
        other.proto === grant.proto &&
        overlap(other.ports, grant.ports) &&
        !haveOwnKeys(other, grant),
    )
    if (earlier) {
      const line = String(earlier.origin.line)
      reader.fail(
        grant.origin,
        `"${host}" is granted on line ${line} already`,
        'keep one entry for a host and port, with all its rules',
      )
    }
    seen.set(host, [...before, grant])
  }
  const denied = new Map(
    layer.denies.map((deny) => [
      deny.host ? formatHost(deny.host) : deny.cidr ? formatCidr(deny.cidr) : '',
      deny,
    ]),
  )
  const granted = [
    ...layer.grants.map((grant) => ({ text: formatHost(grant.host), origin: grant.origin })),
    ...layer.cidrs.map((grant) => ({ text: formatCidr(grant.cidr), origin: grant.origin })),
  ]
  for (const { text, origin } of granted) {
    const deny = denied.get(text)
    if (!deny) continue
    reader.fail(
      origin,
      `"${text}" is granted here and denied on line ${String(deny.origin.line)}, which wins`,
      'drop one of the two',
    )
  }
}

/** Two keys for one host (a bot's and an app's): each entry has its own. */
function haveOwnKeys(a: LayerGrant, b: LayerGrant): boolean {
  return a.credential !== undefined && b.credential !== undefined && a.credential !== b.credential
}
