/**
 * Checks of what the kernel can do, tried on the kernel itself in namespaces that end with the try.
 */
import { tryGuard } from '../backend/iptables/guard.js'
import { findFirewall } from '../setup/firewall.js'
import type { CommandResult } from '../system/types.js'
import { type Check, type DoctorFacts, type Finding, needsRoot, ok } from './types.js'

const platform: Check = {
  name: 'platform',
  why: 'rules, sandbox and system call filter are written for these',
  run: async ({ system }) => {
    const release = (await system.readFile('/proc/sys/kernel/osrelease'))?.trim() ?? 'unknown'
    const what = `Linux ${release}, ${process.arch}, Node ${process.versions.node}`
    if (system.platform !== 'linux') {
      return { state: 'fail', detail: 'not Linux', fix: 'see docs/macos.md' }
    }
    if (process.arch !== 'x64' && process.arch !== 'arm64') {
      return { state: 'fail', detail: `${what}: no system call filter`, fix: 'use x64 or arm64' }
    }
    return ok(what)
  },
}

const namespaces: Check = {
  name: 'namespaces',
  why: 'a jail lives in its own network, mount, process and IPC namespaces',
  run: async (facts) => {
    const unshare = facts.findTool('unshare')
    const inner = facts.findTool('true')
    if (unshare.state !== 'found' || inner.state !== 'found') return missing('unshare')
    if (!facts.isRoot) return needsRoot('whether namespaces can be made')
    const flags = ['--net', '--mount', '--pid', '--ipc', '--uts', '--fork', '--kill-child']
    const result = await facts.system.run([unshare.path, ...flags, '--', inner.path])
    if (result.code === 0) return ok('network, mount, pid, ipc and uts can be made')
    return {
      state: 'fail',
      detail: `cannot be made: ${lastLine(result)}`,
      fix: 'in a container, give it CAP_SYS_ADMIN; see docs for containers',
    }
  },
}

const firewall: Check = {
  name: 'firewall',
  why: 'the rules that deny match on the user, in nftables or iptables',
  run: async (facts) => {
    const { name, tools, files, load } = findFirewall(facts, facts.findTool)
    const absent = tools.find((tool) => facts.findTool(tool).state !== 'found')
    if (absent !== undefined) return missing(absent)
    if (!facts.isRoot) return needsRoot('what the kernel takes')
    const results = await Promise.all(
      load.commands.map((command, n) => tryApart(facts, standardInput(command), files[n]?.text)),
    )
    const refused = results.find((result) => result?.code !== 0)
    return refused === undefined && results.length > 0
      ? ok(`the kernel takes the rules of ${name}`)
      : {
          state: 'fail',
          detail: `${name} refused: ${refused === undefined ? '' : firstLine(refused)}`,
          fix:
            name === 'nftables'
              ? 'the kernel needs nf_tables with nft_reject_inet and nft_meta: a distribution kernel has them'
              : 'the kernel needs the tables filter, nat and security of iptables, and the matches owner, mark, connmark, conntrack and set',
        }
  },
}

/** As boot runs it, but with the rules from standard input: the file is there only after the set-up. */
const standardInput = (command: readonly string[]): readonly string[] =>
  command.at(-2) === '-f' ? [...command.slice(0, -1), '-'] : command.slice(0, -1)

const ownedTables: Check = {
  name: 'owned-tables',
  why: 'with `isolation: uid`, a table that only its owner can flush keeps denying through a flush',
  run: async (facts) => {
    const perl = facts.findTool('perl')
    if (perl.state !== 'found') return missing('perl')
    if (!facts.isRoot) return needsRoot('what the kernel takes')
    const { argv, judge } = tryGuard(perl.path, facts.config.uidRange)
    const result = await tryApart(facts, argv)
    if (result === undefined) return missing('unshare')
    if (result.code === 0 && judge(result.stdout) === 'right')
      return ok('the kernel has tables with an owner')
    return {
      state: 'warn',
      detail: `the kernel has no tables with an owner: ${firstLine(result)}`,
      fix: 'use `isolation: namespace` (the default), or Linux 5.12 or later',
    }
  },
}

/** In a network namespace of its own: the machine's ruleset is not touched. Undefined: no unshare. */
async function tryApart(
  { system, findTool }: DoctorFacts,
  argv: readonly string[],
  input = '',
): Promise<CommandResult | undefined> {
  const unshare = findTool('unshare')
  if (unshare.state !== 'found') return undefined
  return await system.run([unshare.path, '--net', '--', ...argv], { input })
}

const seccomp: Check = {
  name: 'seccomp',
  why: 'system calls that lead around the firewall are refused',
  run: async ({ system }) => {
    const actions = (await system.readFile('/proc/sys/kernel/seccomp/actions_avail')) ?? ''
    return actions.split(/\s+/).includes('errno')
      ? ok('filters are available')
      : {
          state: 'fail',
          detail: 'the kernel has no seccomp filters',
          fix: 'use a kernel with CONFIG_SECCOMP_FILTER',
        }
  },
}

const cgroups: Check = {
  name: 'cgroups',
  why: 'limits of memory and processes for a jail as a whole',
  run: async ({ system }) => {
    const v2 = (await system.readFile('/sys/fs/cgroup/cgroup.controllers')) ?? ''
    const v1 = await system.list('/sys/fs/cgroup').catch((): readonly string[] => [])
    const has = (name: string): boolean => v2.split(/\s+/).includes(name) || v1.includes(name)
    const lacking = ['pids', 'memory', 'cpu'].filter((name) => !has(name))
    if (lacking.length === 0) return ok(v2 === '' ? 'version 1' : 'version 2')
    return {
      state: 'warn',
      detail: `no controller for ${lacking.join(', ')}: those limits hold for each process alone`,
      fix: 'mount cgroup2 on /sys/fs/cgroup',
    }
  },
}

export const kernelChecks: readonly Check[] = [
  platform,
  namespaces,
  firewall,
  ownedTables,
  seccomp,
  cgroups,
]

function missing(tool: string): Finding {
  return { state: 'fail', detail: `${tool} is missing`, fix: 'sudo agentjail setup' }
}

function firstLine({ stderr }: CommandResult): string {
  return stderr.trim().split('\n')[0] ?? ''
}

function lastLine({ stderr }: CommandResult): string {
  return stderr.trim().split('\n').at(-1) ?? ''
}
