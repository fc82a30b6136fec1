/**
 * The static deny as setup, boot and doctor need it, of whichever firewall this machine has.
 * Invariant: what boot loads is what the backend itself would load.
 */
import { iptablesBackend, renderStaticDeny as renderIptables } from '../backend/iptables/index.js'
import { findBaseProblem } from '../backend/iptables/base.js'
import { families } from '../backend/iptables/tables.js'
import { Tool } from '../backend/iptables/tool.js'
import { findIptables, notedVariant, noteVariant } from '../backend/iptables/variant.js'
import { nftablesBackend, renderStaticDeny } from '../backend/nftables/index.js'
import { iptablesTools, preferredFirewall } from '../backend/preferred.js'
import { findTool, findTools } from '../system/tools.js'
import type { Found } from '../system/tools.js'
import type { System } from '../system/types.js'
import type { Config } from './config.js'
import { findDenyProblem } from './deny.js'
import { paths, type DenyLoad } from './units.js'

export interface SetupFirewall {
  readonly name: 'nftables' | 'iptables'
  /** Programs it takes. */
  readonly tools: readonly string[]
  readonly files: readonly { readonly path: string; readonly text: string }[]
  /** How boot loads the files. */
  readonly load: DenyLoad
  /** What keeps the static deny from being in force, in words; undefined: it reads back as meant. */
  findProblem(): Promise<string | undefined>
  ensureDeny(): Promise<void>
}

type Machine = { readonly system: System; readonly config: Config }

export function findFirewall(
  machine: Machine,
  find: (name: string) => Found = findTool,
): SetupFirewall {
  return preferredFirewall(find) === 'nftables' ? nftables(machine, find) : iptables(machine, find)
}

const pathOf = (name: string, find: (name: string) => Found): string => {
  const found = find(name)
  return found.state === 'missing' ? `/usr/sbin/${name}` : found.path
}

function nftables({ system, config }: Machine, find: (name: string) => Found): SetupFirewall {
  const { uidRange: range, stateDir } = config
  return {
    name: 'nftables',
    tools: ['nft'],
    files: [{ path: paths.denyRules, text: renderStaticDeny(range) }],
    load: {
      commands: [[pathOf('nft', find), '-f', paths.denyRules]],
      after: ['nftables'],
      capabilities: ['CAP_NET_ADMIN'],
      writes: [],
    },
    findProblem: async () => {
      const nft = find('nft')
      return nft.state === 'found'
        ? await findDenyProblem(system, nft.path, range)
        : 'nft is not installed'
    },
    ensureDeny: async () => {
      const found = findTools(['nft', 'ip', 'unshare', 'nsenter', 'perl'])
      const tools = {
        nft: found.get('nft'),
        ip: found.get('ip'),
        unshare: found.get('unshare'),
        nsenter: found.get('nsenter'),
        perl: found.get('perl'),
      }
      await nftablesBackend({ system, tools, stateDir }).ensureStaticDeny(range)
    },
  }
}

function iptables({ system, config }: Machine, find: (name: string) => Found): SetupFirewall {
  const { uidRange: range, stateDir } = config
  const load = (family: 4 | 6): readonly string[] => [
    ...[pathOf(family === 4 ? 'iptables-restore' : 'ip6tables-restore', find), '--noflush'],
    ...['--wait', '5', paths.denyIptables[family]],
  ]
  const open = async () => {
    const variant = (await notedVariant(system, stateDir)) ?? 'iptables'
    const found = findTools(['ip', 'unshare', 'nsenter', 'perl'])
    const tools = findIptables(variant, {
      ip: found.get('ip'),
      unshare: found.get('unshare'),
      nsenter: found.get('nsenter'),
      perl: found.get('perl'),
    })
    return { variant, tools }
  }
  return {
    name: 'iptables',
    tools: iptablesTools,
    files: families.map((family) => ({
      path: paths.denyIptables[family],
      text: renderIptables(family, range),
    })),
    load: {
      commands: families.map(load),
      after: ['netfilter-persistent', 'iptables', 'ip6tables'],
      // The older variant speaks to the kernel by a raw socket, and takes a lock file.
      capabilities: ['CAP_NET_ADMIN', 'CAP_NET_RAW'],
      writes: ['/run'],
    },
    findProblem: async () => {
      const { tools } = await open()
      const listings = await new Tool(system, tools).lists()
      return families
        .map((family) => findBaseProblem(family, range, listings[family], 'either'))
        .find((problem) => problem !== undefined)
    },
    ensureDeny: async () => {
      const { variant, tools } = await open()
      await noteVariant(system, stateDir, variant)
      await iptablesBackend({ system, tools, range, stateDir }).ensureStaticDeny(range)
    },
  }
}
