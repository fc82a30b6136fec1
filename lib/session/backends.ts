/**
 * Which firewall holds the jails: nftables, or iptables where nft is missing or where it is asked for.
 * Invariant: what a dead jail left is collected in whichever holds it.
 */
import {
  findIptables,
  forgetVariant,
  notedVariant,
  noteVariant,
} from '../backend/iptables/variant.js'
import type { Variant } from '../backend/iptables/variant.js'
import { nftablesBackend } from '../backend/nftables/index.js'
import type { Backend, UidRange } from '../backend/types.js'
import { findTool, findTools } from '../system/tools.js'
import type { System } from '../system/types.js'
import type { BackendChoice } from './backend-choice.js'

export interface BackendRequest {
  readonly system: System
  /** Root-owned, on a tmpfs. */
  readonly stateDir: string
  readonly range: UidRange
  readonly tools: {
    readonly ip: string
    readonly unshare: string
    readonly nsenter: string
    readonly perl: string
  }
  /** Absent: nftables where nft is installed, else iptables where it and ipset are. */
  readonly asked?: BackendChoice
}

/** Throws TOOL_MISSING for what the choice needs. */
export async function chooseBackend(request: BackendRequest): Promise<Backend> {
  const choice = request.asked ?? defaultChoice()
  return choice === 'nftables' ? nftables(request) : await iptables(request, choice)
}

function defaultChoice(): BackendChoice {
  const isMissing = (name: string): boolean => findTool(name).state === 'missing'
  if (!isMissing('nft')) return 'nftables'
  return ['iptables-restore', 'ip6tables-restore', 'ipset'].some(isMissing)
    ? 'nftables'
    : 'iptables'
}

function nftables(request: BackendRequest): Backend {
  const { system, stateDir } = request
  const backend = plainNftables(request, findTools(['nft']).get('nft'))
  const former = async (): Promise<Backend | undefined> => {
    const variant = await notedVariant(system, stateDir)
    return variant === undefined ? undefined : await plainIptables(request, variant)
  }
  return {
    ...backend,
    collect: async (jail) => {
      await backend.collect(jail)
      await (await former())?.collect(jail)
    },
    uninstall: async () => {
      await (await former())?.uninstall()
      await forgetVariant(system, stateDir)
      await backend.uninstall()
    },
  }
}

async function iptables(request: BackendRequest, variant: Variant): Promise<Backend> {
  const { system, stateDir } = request
  const backend = await plainIptables(request, variant)
  const nft = findTool('nft')
  const former = nft.state === 'found' ? plainNftables(request, nft.path) : undefined
  return {
    ...backend,
    ensureStaticDeny: async (range) => {
      await noteVariant(system, stateDir, variant)
      await backend.ensureStaticDeny(range)
    },
    collect: async (jail) => {
      await backend.collect(jail)
      await former?.collect(jail)
    },
    uninstall: async () => {
      await former?.uninstall()
      await backend.uninstall()
      await forgetVariant(system, stateDir)
    },
  }
}

function plainNftables({ system, stateDir, tools }: BackendRequest, nft: string): Backend {
  return nftablesBackend({ system, tools: { ...tools, nft }, stateDir })
}

/** Loaded only where it is used: nearly no run needs it. */
async function plainIptables(
  { system, range, tools }: BackendRequest,
  variant: Variant,
): Promise<Backend> {
  const { iptablesBackend } = await import('../backend/iptables/index.js')
  return iptablesBackend({ system, tools: findIptables(variant, tools), range })
}
