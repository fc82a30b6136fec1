/**
 * Checks of what is installed and how this machine is set up.
 */
import { isIP } from 'node:net'
import { parsePasswd } from '../system/passwd.js'
import { lackingForSetup, mayMakeNamespaces } from '../container/capabilities.js'
import { type SetupStep, setupSteps } from '../setup/setup.js'
import { rangeText } from '../setup/config.js'
import { findFirewall } from '../setup/firewall.js'
import { paths } from '../setup/units.js'
import { installLine, requiredTools } from '../system/distro.js'
import { type Check, type DoctorFacts, type Finding, needsRoot, ok } from './types.js'

const tools: Check = {
  name: 'tools',
  why: 'root runs these, so they must be there and be root’s alone',
  run: (facts) => {
    const { findTool, distro } = facts
    const needed = [...findFirewall(facts, findTool).tools, ...requiredTools]
    const found = needed.map((name) => [name, findTool(name)] as const)
    const missing = found.filter(([, { state }]) => state === 'missing').map(([name]) => name)
    const unsafe = found.flatMap(([, tool]) => (tool.state === 'unsafe' ? [tool.problem] : []))
    if (missing.length > 0) {
      const detail = `not installed: ${missing.join(', ')}`
      return Promise.resolve({ state: 'fail', detail, fix: installLine(distro, missing) })
    }
    if (unsafe.length > 0) {
      const detail = `not safe to run as root: ${unsafe.join('; ')}`
      return Promise.resolve({ state: 'fail', detail, fix: 'as said; then look who changed it' })
    }
    return Promise.resolve(ok(found.map(([name]) => name).join(', ')))
  },
}

const privilege: Check = {
  name: 'privilege',
  why: 'accounts, rules and namespaces are made by root; the command itself never runs as root',
  run: async ({ isRoot, findTool, system }) => {
    if (!isRoot) {
      return findTool('sudo').state === 'found'
        ? ok('not root; agentjail asks sudo')
        : {
            state: 'fail',
            detail: 'neither root nor sudo',
            fix: 'install sudo, or run agentjail as root',
          }
    }
    const status = (await system.readFile('/proc/self/status')) ?? ''
    const lacking = lackingForSetup(status)
    if (lacking.length === 0 && mayMakeNamespaces(status)) return ok('root, with what it takes')
    if (lacking.length === 0) {
      return {
        state: 'warn',
        detail: 'root without CAP_SYS_ADMIN: only isolation basic is left',
        fix: 'in a container, add it for the other isolations (docs/containers.md)',
      }
    }
    return {
      state: 'fail',
      detail: `root without ${lacking.join(', ')}`,
      fix: 'in a container, add these capabilities',
    }
  },
}

const configuration: Check = {
  name: 'config',
  why: 'the reserved users and the directories are what it says',
  run: ({ configProblem }) =>
    Promise.resolve(
      configProblem === undefined
        ? ok(paths.config)
        : { state: 'fail', detail: configProblem, fix: `correct ${paths.config}` },
    ),
}

const accounts: Check = {
  name: 'accounts',
  why: 'whoever has an id of the reserved range has no network',
  run: async ({ system, config }) => {
    const { first, last } = config.uidRange
    const entries = parsePasswd((await system.readFile('/etc/passwd')) ?? '')
    const strangers = entries.filter(
      ({ uid, comment }) => uid >= first && uid <= last && !comment.startsWith('agentjail '),
    )
    const names = strangers.map(({ name }) => name)
    for (const file of ['/etc/subuid', '/etc/subgid']) {
      for (const line of ((await system.readFile(file)) ?? '').split('\n')) {
        const [owner = '', start = '', count = ''] = line.split(':')
        const from = Number(start)
        if (count !== '' && from <= last && from + Number(count) > first) {
          names.push(`${owner} (by ${file})`)
        }
      }
    }
    if (names.length === 0) return ok(`${rangeText(config.uidRange)} is agentjail's alone`)
    return {
      state: 'fail',
      detail: `others have ids of ${rangeText(config.uidRange)}: ${names.join(', ')}`,
      fix: 'set another uidRange in /etc/agentjail/config.yaml',
    }
  },
}

/** As the gate takes them: the first three of resolv.conf(5). */
function nameservers(text: string): { readonly address: string; readonly port: number }[] {
  return [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)]
    .flatMap(([, address = '']) => (isIP(address) === 0 ? [] : [{ address, port: 53 }]))
    .slice(0, 3)
}

const resolvers: Check = {
  name: 'dns',
  why: 'the gate asks these servers for granted names',
  run: async ({ system, config, askResolver }) => {
    const isConfigured = config.upstreams.length > 0
    const file = isConfigured ? paths.config : '/etc/resolv.conf'
    const servers = isConfigured
      ? config.upstreams
      : nameservers((await system.readFile('/etc/resolv.conf')) ?? '')
    if (servers.length === 0) {
      return {
        state: 'warn',
        detail: 'no nameserver in /etc/resolv.conf: 127.0.0.1 is asked',
        fix: 'set upstreams in /etc/agentjail/config.yaml',
      }
    }
    const answers = await Promise.all(servers.map((server) => askResolver(server)))
    const names = servers.map(({ address }) => address)
    const silent = names.filter((_, n) => answers[n] === false)
    const via = names.includes('127.0.0.53') ? ' (systemd-resolved)' : ''
    if (silent.length === 0) return ok(`${names.join(', ')}${via}: answers`)
    const isAll = silent.length === names.length
    return {
      state: isAll ? 'fail' : 'warn',
      detail: `no answer from ${silent.join(', ')}${isAll ? `${via}: no granted name will be found` : ''}`,
      fix: `see whether the server runs and can be reached (dig @${silent[0] ?? ''} . NS), or name another in ${file}`,
    }
  },
}

const clock: Check = {
  name: 'clock',
  why: 'certificates, pins and the log need the time',
  run: ({ system, released }) => {
    const now = system.now()
    if (now >= released) return Promise.resolve(ok(new Date(now).toISOString()))
    return Promise.resolve({
      state: 'fail',
      detail: `${new Date(now).toISOString()} is before this release was made`,
      fix: 'set the clock: timedatectl set-ntp true',
    })
  },
}

const policies: Check = {
  name: 'policies',
  why: 'a policy with a mistake is refused, also as part of another',
  run: async ({ brokenPolicies }) => {
    const broken = await brokenPolicies()
    if (broken.length === 0) return ok('all bundled policies load')
    return {
      state: 'fail',
      detail: broken.slice(0, 5).join('\n'),
      fix: 'install agentjail anew: its own files were changed',
    }
  },
}

/** What `setup` makes, still as it made it. */
const setUp: Check = {
  name: 'setup',
  why: 'directories, the gate’s user, and the deny of reserved users, now and at each boot',
  run: async (facts) => {
    if (!facts.isRoot) return needsRoot('what setup made')
    const steps = (await setupSteps(facts)).filter(({ title }) => title !== 'system packages')
    const undone: SetupStep[] = []
    for (const step of steps) if (!(await step.isDone())) undone.push(step)
    if (undone.length === 0) return ok('complete; the static deny reads back as meant')
    return setupFinding(undone, facts)
  },
}

function setupFinding(undone: readonly SetupStep[], facts: DoctorFacts): Finding {
  const byHand = undone.flatMap((step) => step.byHand ?? [])
  const isAllByHand = byHand.length === undone.length
  const finding = {
    // Without the unit jails hold; only an old job at boot would not be denied before the first run.
    state: undone.every(({ title }) => title === 'static deny at boot') ? 'warn' : 'fail',
    detail: `missing or changed: ${undone.map(({ title }) => title).join(', ')}`,
    fix: isAllByHand ? byHand.join('; ') : 'sudo agentjail setup',
  } as const
  if (isAllByHand) return finding
  const { tools } = findFirewall(facts, facts.findTool)
  if (tools.some((name) => facts.findTool(name).state !== 'found')) return finding
  return {
    ...finding,
    repair: async () => {
      for (const step of undone) await step.apply()
    },
  }
}

export const machineChecks: readonly Check[] = [
  tools,
  privilege,
  configuration,
  setUp,
  accounts,
  resolvers,
  clock,
  policies,
]
