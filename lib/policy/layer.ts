/**
 * One policy file as parsed, before `extends` is composed: absent means not written.
 * Invariant: everything in a layer is already parsed and bounded on its own; what needs several files
 * (whether a credential exists) is checked when they are composed.
 */
import type {
  CidrGrant,
  Credential,
  Deny,
  DnsSettings,
  FsRules,
  Grant,
  Isolation,
  Limits,
  Origin,
} from './types.js'

export interface ExtendsRef {
  /** As written: a bundled name, `bundle:NAME`, or a path relative to the file. */
  readonly ref: string
  readonly origin: Origin
}

/** Where a grant names a credential, for the message when there is none. */
export type LayerGrant = Omit<Grant, 'id'> & { readonly credentialOrigin?: Origin }

export interface Layer {
  readonly source: string
  readonly name?: string
  readonly description?: string
  readonly extends: readonly ExtendsRef[]
  readonly isolation?: Isolation
  readonly report?: boolean
  readonly grants: readonly LayerGrant[]
  readonly cidrs: readonly Omit<CidrGrant, 'id'>[]
  readonly denies: readonly Deny[]
  readonly loopback: { readonly connect: readonly number[]; readonly listen: readonly number[] }
  readonly ipv6?: boolean
  readonly dns: Partial<Omit<DnsSettings, 'wildcard'>> & {
    readonly wildcard?: Partial<DnsSettings['wildcard']>
  }
  readonly credentials: ReadonlyMap<string, Credential>
  readonly env: { readonly pass: readonly string[]; readonly set: ReadonlyMap<string, string> }
  readonly fs: FsRules
  readonly limits: Limits
  readonly userNamespaces?: boolean
  readonly transparent?: boolean
}

/** An object without its undefined members, as `exactOptionalPropertyTypes` wants it. */
export function compact<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>
  }
}

/** A copy without some of its members. */
export function omit<T extends object, K extends keyof T>(
  value: T,
  ...names: readonly K[]
): Omit<T, K> {
  const copy = { ...value }
  for (const name of names) Reflect.deleteProperty(copy, name)
  return copy
}
