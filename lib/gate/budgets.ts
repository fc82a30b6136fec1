/**
 * Counts connections, requests and uploaded bytes against the limits of grants and of the jail.
 * Invariant: a byte beyond an upload budget is never sent, and what was used stays used through reloads.
 */
import type { ReasonCode } from '../audit/record.js'
import type { CidrGrant, Grant } from '../policy/types.js'
import { formatHost } from '../policy/hosts.js'
import { TokenBucket } from './rate.js'

export type AnyGrant = Grant | CidrGrant

/** All connections of one jail; each takes two descriptors. */
const maxConnections = 8192

interface Use {
  connections: number
  upload: number
  bucket: TokenBucket | undefined
}

/** What a grant opens, the same through reloads that number grants anew. */
export function grantKey(grant: AnyGrant): string {
  const to =
    'host' in grant ? formatHost(grant.host) : `${grant.cidr.address}/${String(grant.cidr.prefix)}`
  const ports = grant.ports.map((range) => `${String(range.first)}-${String(range.last)}`)
  return `${to} ${grant.proto} ${ports.join(',')}`
}

export class Budgets {
  readonly #now: () => number
  readonly #uses = new Map<string, Use>()
  #egressBytes: number | undefined
  #connections = 0
  #upload = 0

  /** `egressBytes`: of the whole jail; absent: unlimited. */
  constructor(egressBytes: number | undefined, now: () => number) {
    this.#egressBytes = egressBytes
    this.#now = now
  }

  update(egressBytes: number | undefined): void {
    this.#egressBytes = egressBytes
  }

  get connections(): number {
    return this.#connections
  }

  get uploaded(): number {
    return this.#upload
  }

  /** Why one more connection is refused; if it is not, `close` must follow. */
  open(grant: AnyGrant | undefined): ReasonCode | undefined {
    if (this.#connections >= maxConnections) return 'budget-connections'
    if (this.isSpent(grant)) return 'budget-upload'
    if (grant !== undefined) {
      const use = this.#use(grant)
      const limits = limitsOf(grant)
      if (limits.conns !== undefined && use.connections >= limits.conns) return 'budget-connections'
      // For inspected HTTP the rate is of requests, counted by `request`.
      if (!isHttp(grant) && !this.#take(use, limits.rps)) return 'budget-rate'
      use.connections++
    }
    this.#connections++
    return undefined
  }

  close(grant: AnyGrant | undefined): void {
    this.#connections--
    if (grant !== undefined) this.#use(grant).connections--
  }

  /** Why one more HTTP request is refused. */
  request(grant: Grant): ReasonCode | undefined {
    if (this.isSpent(grant)) return 'budget-upload'
    return this.#take(this.#use(grant), grant.limits.rps) ? undefined : 'budget-rate'
  }

  /** Counts bytes about to leave; false: they must not, and the grant is closed from now on. */
  upload(grant: AnyGrant | undefined, bytes: number): boolean {
    this.#upload += bytes
    let isWithin = this.#egressBytes === undefined || this.#upload <= this.#egressBytes
    if (grant !== undefined) {
      const use = this.#use(grant)
      use.upload += bytes
      const limit = limitsOf(grant).uploadBytes
      if (limit !== undefined && use.upload > limit) isWithin = false
    }
    return isWithin
  }

  /** Whether the grant's or the jail's upload budget was crossed. */
  isSpent(grant: AnyGrant | undefined): boolean {
    if (this.#egressBytes !== undefined && this.#upload > this.#egressBytes) return true
    const limit = grant === undefined ? undefined : limitsOf(grant).uploadBytes
    return grant !== undefined && limit !== undefined && this.#use(grant).upload > limit
  }

  #take(use: Use, rps: number | undefined): boolean {
    if (rps === undefined) return true
    if (use.bucket === undefined) use.bucket = new TokenBucket(rps, rps, this.#now)
    else use.bucket.set(rps, rps)
    return use.bucket.take()
  }

  #use(grant: AnyGrant): Use {
    const key = grantKey(grant)
    let use = this.#uses.get(key)
    if (use === undefined) {
      use = { connections: 0, upload: 0, bucket: undefined }
      this.#uses.set(key, use)
    }
    return use
  }
}

function limitsOf(grant: AnyGrant): Grant['limits'] {
  return 'limits' in grant ? grant.limits : {}
}

function isHttp(grant: AnyGrant): boolean {
  return 'inspect' in grant && grant.inspect === 'http'
}
