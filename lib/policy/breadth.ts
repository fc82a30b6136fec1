/**
 * Whether a wildcard is too broad to grant: public suffixes, and suffixes under which anybody can
 * have a host of his own (tenant hosting), where an attacker's bucket would be granted too.
 * Invariant: a wildcard that reaches two unrelated owners is refused.
 */
import { parse } from 'tldts'
import { formatHost } from './hosts.js'
import { type Problem, problem } from './problem.js'
import type { HostPattern } from './types.js'

/** Tenant hosting that the public suffix list lacks: a label directly below belongs to one tenant. */
const tenantSuffixes: ReadonlySet<string> = new Set([
  'azure-api.net',
  'backblazeb2.com',
  'googleusercontent.com',
  'oraclecloud.com',
  'sharepoint.com',
  'zendesk.com',
])

/**
 * Clouds whose services and regions stand between the suffix and the tenant (`s3.us-east-1.amazonaws.com`):
 * any wildcard in there is refused, unless the public suffix list knows that its name is one tenant's.
 */
const cloudSuffixes: readonly string[] = [
  'aliyuncs.com',
  'amazonaws.com',
  'amazonaws.com.cn',
  'azure.com',
  'azurecontainer.io',
  'cloudflarestorage.com',
  'digitaloceanspaces.com',
  'myqcloud.com',
  'trafficmanager.net',
  'wasabisys.com',
  'windows.net',
]

/** Exact names under which every tenant writes, told apart only by path: no wildcard needed to leak. */
const sharedHosts: ReadonlyMap<string, string> = new Map([
  ['storage.googleapis.com', 'anybody can own a bucket there'],
  ['s3.amazonaws.com', 'anybody can own a bucket there'],
])

/** `undefined` when the pattern is narrow enough for a grant. */
export function breadthProblem(pattern: HostPattern): Problem | undefined {
  const text = formatHost(pattern)
  const { name } = pattern
  if (pattern.kind === 'exact') {
    const shared = sharedHosts.get(name)
    if (shared === undefined) return undefined
    return problem(`"${text}" is shared by all its tenants: ${shared}`, `write BUCKET.${name}`)
  }
  const suffix = parse(`x.${name}`, { allowPrivateDomains: true })
  if (suffix.publicSuffix === name && suffix.isPrivate !== true) {
    return problem(
      `"${text}" grants every domain under .${name}`,
      `name the domain: *.example.${name}`,
    )
  }
  if (suffix.publicSuffix === name || tenantSuffixes.has(name)) return tenantProblem(text, name)
  const isCloud = cloudSuffixes.some((cloud) => name === cloud || name.endsWith(`.${cloud}`))
  return isCloud && suffix.isPrivate !== true ? tenantProblem(text, name) : undefined
}

function tenantProblem(text: string, name: string): Problem {
  return problem(
    `"${text}" grants hosts of unrelated owners: anybody can have a name under ${name}`,
    `name the hosts, e.g. my-own.${name}`,
  )
}
