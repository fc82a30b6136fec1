/**
 * A real question to a resolver: for the servers of the root, which every one knows, and which tells nothing about anybody.
 */
import { Resolver } from 'node:dns/promises'
import { isIPv6 } from 'node:net'
import { errnoCode } from '../errors.js'

/** Milliseconds: more than a resolver takes that has to ask elsewhere first. */
const patience = 2_000
/** What c-ares says of servers that gave no answer at all; all else is an answer. */
const silence: ReadonlySet<string | undefined> = new Set([
  ...['ETIMEOUT', 'ECONNREFUSED', 'ENETUNREACH', 'EHOSTUNREACH', 'EDESTRUCTION', 'ECANCELLED'],
])

/** Whether it answers, whatever it says. Never rejects. */
export async function askResolver({
  address,
  port,
}: {
  readonly address: string
  readonly port: number
}): Promise<boolean> {
  const resolver = new Resolver({ timeout: patience, tries: 1 })
  try {
    resolver.setServers([`${isIPv6(address) ? `[${address}]` : address}:${String(port)}`])
    await resolver.resolve('.', 'NS')
    return true
  } catch (error) {
    return !silence.has(errnoCode(error))
  }
}
