/**
 * Which firewall a machine has for jails, by the tools that are there.
 */
import { findTool } from '../system/tools.js'
import type { Found } from '../system/tools.js'

/** What iptables takes; nftables takes nft. */
export const iptablesTools = [
  ...['iptables-restore', 'ip6tables-restore', 'iptables-save', 'ip6tables-save', 'ipset'],
] as const

/** nftables, also where neither is there; iptables where it and ipset are and nft is not. */
export function preferredFirewall(
  find: (name: string) => Found = findTool,
): 'nftables' | 'iptables' {
  const isMissing = (name: string): boolean => find(name).state === 'missing'
  return isMissing('nft') && !iptablesTools.some(isMissing) ? 'iptables' : 'nftables'
}
