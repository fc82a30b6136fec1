/**
 * Protocols as nft lists them: by the names of /etc/protocols, or by number where that file is not there, as in most
 * slim images. Pure.
 */

/** Those that rules of ours name or refused packets often have (iana.org, "Protocol Numbers"; names as in /etc/protocols). */
const names: ReadonlyMap<unknown, string> = new Map([
  [1, 'icmp'],
  [2, 'igmp'],
  [6, 'tcp'],
  [17, 'udp'],
  [33, 'dccp'],
  [58, 'ipv6-icmp'],
  [132, 'sctp'],
  [136, 'udplite'],
])

/** The name of what nft listed; what has none here stays as it is. */
export function protocolName(listed: unknown): unknown {
  return names.get(listed) ?? listed
}
