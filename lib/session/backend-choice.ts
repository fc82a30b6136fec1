/**
 * The words for `--backend`; apart, so that the command line needs no backend to know them.
 */
import { variants } from '../backend/iptables/variant.js'

export const backendChoices = ['nftables', ...variants] as const
export type BackendChoice = (typeof backendChoices)[number]

export const isBackendChoice = (text: string): text is BackendChoice =>
  (backendChoices as readonly string[]).includes(text)
