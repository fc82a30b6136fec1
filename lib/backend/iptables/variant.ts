/**
 * Which of a machine's iptables holds our rules, and where that is noted.
 * Invariant: the note is written before the first rule, so that every later command finds what there is.
 */
import { findTools } from '../../system/tools.js'
import type { System } from '../../system/types.js'
import type { IptablesTools } from './tool.js'

/** `iptables`: whichever variant the system's own name leads to. */
export const variants = ['iptables', 'iptables-nft', 'iptables-legacy'] as const
export type Variant = (typeof variants)[number]

/** Absolute paths. Throws TOOL_MISSING. */
export function findIptables(
  variant: Variant,
  others: Pick<IptablesTools, 'ip' | 'unshare' | 'nsenter' | 'perl'>,
): IptablesTools {
  const six = variant.replace('iptables', 'ip6tables')
  const names = [`${variant}-restore`, `${variant}-save`, `${six}-restore`, `${six}-save`, 'ipset']
  const found = findTools(names)
  const path = (index: number): string => found.get(names[index] ?? '')
  const { ip, unshare, nsenter, perl } = others
  return {
    ...{ ip, unshare, nsenter, perl },
    restore: path(0),
    save: path(1),
    restore6: path(2),
    save6: path(3),
    ipset: path(4),
  }
}

const notePath = (stateDir: string): string => `${stateDir}/iptables`

/** The variant that holds rules of ours; undefined: none does. */
export async function notedVariant(
  system: Pick<System, 'readFile'>,
  stateDir: string,
): Promise<Variant | undefined> {
  const noted = (await system.readFile(notePath(stateDir)))?.trim()
  return variants.find((variant) => variant === noted)
}

export async function noteVariant(
  system: Pick<System, 'makeDir' | 'readFile' | 'writeFile'>,
  stateDir: string,
  variant: Variant,
): Promise<void> {
  if ((await notedVariant(system, stateDir)) === variant) return
  await system.makeDir(stateDir, 0o700)
  await system.writeFile(notePath(stateDir), variant, 0o600)
}

export async function forgetVariant(
  system: Pick<System, 'removeFile'>,
  stateDir: string,
): Promise<void> {
  await system.removeFile(notePath(stateDir))
}
