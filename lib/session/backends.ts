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
import type { IptablesBackend } from '../backend/iptables/index.js'
import { nftablesBackend } from '../backend/nftables/index.js'
import type { DumpChain } from '../backend/nftables/seen-deny.js'
import { tableName } from '../backend/nftables/tables.js'
import { preferredFirewall } from '../backend/preferred.js'
import type { Backend, UidRange } from '../backend/types.js'
import { JailError } from '../errors.js'
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
  readonly dumpChain?: DumpChain | undefined
}

/** Throws TOOL_MISSING for what the choice needs. */
export async function chooseBackend(request: BackendRequest): Promise<Backend> {
  const choice = request.asked ?? preferredFirewall()
  return choice === 'nftables' ? nftables(request) : await iptables(request, choice)
}

function nftables(request: BackendRequest): Backend {
  const { system, stateDir } = request
  const backend = plainNftables(request, findTools(['nft']).get('nft'))
  const former = async (): Promise<IptablesBackend | undefined> => {
    const variant = await notedVariant(system, stateDir)
    return variant === undefined ? undefined : await plainIptables(request, variant)
  }
  return {
    ...backend,
    open: async (plan) => {
      const old = plan.isolation === 'uid' ? await former() : undefined
      if (old !== undefined) {
        if (await old.hasJails()) throw heldByOther('iptables', '--backend iptables')
        // Its deny of the range knows nothing of what this one opens.
        await backend.ensureStaticDeny(plan.range)
        await old.uninstall()
        await forgetVariant(system, stateDir)
      }
      return await backend.open(plan)
    },
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
  const nftHasJails = async (): Promise<boolean> => {
    if (nft.state !== 'found') return false
    const { code } = await system.run([nft.path, 'list', 'table', 'inet', tableName.uid])
    return code === 0
  }
  return {
    ...backend,
    open: async (plan) => {
      if (plan.isolation === 'uid') {
        if (await nftHasJails()) throw heldByOther('nftables', '--backend nftables')
        await noteVariant(system, stateDir, variant)
      }
      return await backend.open(plan)
    },
    ensureStaticDeny: async (range, locked) => {
      // Ours would close the jails that nftables holds: as long as they run, its own deny is the one in force.
      if (former !== undefined && (await nftHasJails())) {
        await former.ensureStaticDeny(range, locked)
        return
      }
      await noteVariant(system, stateDir, variant)
      await backend.ensureStaticDeny(range, locked)
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

function heldByOther(name: string, option: string): JailError {
  return new JailError('STATE', `jails in isolation uid are held by ${name} now`, {
    hint: `use ${option} for this one too, or end them first, or use isolation namespace`,
  })
}

function plainNftables(
  { system, stateDir, tools, dumpChain }: BackendRequest,
  nft: string,
): Backend {
  return nftablesBackend({ system, tools: { ...tools, nft }, stateDir, dumpChain })
}

/** Loaded only where it is used: nearly no run needs it. */
async function plainIptables(
  { system, range, tools, stateDir }: BackendRequest,
  variant: Variant,
): Promise<IptablesBackend> {
  const { iptablesBackend } = await import('../backend/iptables/index.js')
  return iptablesBackend({ system, tools: findIptables(variant, tools), range, stateDir })
}
