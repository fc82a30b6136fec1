/**
 * What the doctor looks at on macOS instead of Linux's kernel, packages and accounts.
 * Invariant: as everywhere here: a check changes nothing.
 */
import { realpathSync } from 'node:fs'
import { listMacAccounts } from '../account/macos.js'
import { listRecords } from '../account/dscl.js'
import type { PfBackend } from '../backend/pf/index.js'
import { gateMain } from '../session/gate-process.js'
import { closedTo, readableHint } from '../session/macos/readable.js'
import { openRegistry } from '../session/registry.js'
import { rangeText } from '../setup/config.js'
import type { SetupStep } from '../setup/setup.js'
import { isAlive } from '../system/process-identity.js'
import { machineChecks } from './machine.js'
import { type Check, type Finding, needsRoot, ok } from './types.js'

export interface MacDoctor {
  readonly backend: PfBackend
  /** Absolute paths of every program that agentjail runs there. */
  readonly tools: readonly string[]
  readonly setup: readonly SetupStep[]
}

/** The same everywhere. */
const common = ['config', 'dns', 'clock', 'policies']

export function macChecks(mac: MacDoctor): readonly Check[] {
  return [
    platform,
    tools(mac),
    privilege,
    pf(mac),
    setUp(mac),
    accounts,
    fullDiskAccess,
    readable,
    homes,
    log,
    leftovers,
    ...machineChecks.filter(({ name }) => common.includes(name)),
  ]
}

const platform: Check = {
  name: 'platform',
  why: 'rules and sandbox are written for these; none of it has run on a Mac yet (docs/macos.md)',
  run: async ({ system }) => {
    const { stdout } = await system.run(['/usr/bin/sw_vers', '-productVersion'])
    const version = stdout.trim()
    const what = `macOS ${version === '' ? 'of unknown version' : version}, ${process.arch}, Node ${process.versions.node}`
    if (Number(version.split('.')[0]) >= 12) return ok(what)
    return { state: 'warn', detail: what, fix: 'use macOS 12 or later' }
  },
}

const tools = (mac: MacDoctor): Check => ({
  name: 'tools',
  why: 'root runs these, so they must be there and be root’s alone',
  run: async ({ system }) => {
    const bad: string[] = []
    for (const path of mac.tools) {
      const stat = await system.lstat(path)
      if (stat === undefined) bad.push(`${path} is missing`)
      else if (stat.uid !== 0 || (stat.kind !== 'symlink' && (stat.mode & 0o022) !== 0))
        bad.push(`${path} may be changed by others than root`)
    }
    if (bad.length === 0) return ok(`${String(mac.tools.length)} programs of macOS`)
    return { state: 'fail', detail: bad.join('; '), fix: 'they are part of macOS: reinstall it' }
  },
})

const privilege: Check = {
  name: 'privilege',
  why: 'accounts and rules are made by root; the command itself never runs as root',
  run: async ({ isRoot, system }) => {
    if (isRoot) return ok('root')
    if ((await system.lstat('/usr/bin/sudo')) !== undefined)
      return ok('not root; agentjail asks sudo')
    return { state: 'fail', detail: 'neither root nor sudo', fix: 'run agentjail as root' }
  },
}

const pf = (mac: MacDoctor): Check => ({
  name: 'pf',
  why: 'a jail is held by rules in an anchor, which the main ruleset must call and nothing may overtake',
  run: async ({ isRoot, config }) => {
    if (!isRoot) return needsRoot('what pf holds')
    const problem = await mac.backend.denyProblem(config.uidRange)
    if (problem === undefined) return ok('enabled, with the static deny; it reads back as written')
    const isOwn =
      /^(it is not loaded|pf is disabled|agentjail's reference|missing|expected|unexpected)/
    return {
      state: 'fail',
      detail: problem,
      fix: isOwn.test(problem)
        ? 'sudo agentjail setup'
        : 'see docs/macos.md, "When something is in the way"',
    }
  },
})

const setUp = (mac: MacDoctor): Check => ({
  name: 'setup',
  why: 'directories, and the deny of reserved users, now and at each boot',
  run: async ({ isRoot }) => {
    if (!isRoot) return needsRoot('what setup made')
    const undone: SetupStep[] = []
    for (const step of mac.setup) if (!(await step.isDone())) undone.push(step)
    if (undone.length === 0) return ok('complete')
    return {
      // Without the job jails hold; only what runs at boot would not be denied before the first command.
      state: undone.every(({ title }) => title === 'static deny at boot') ? 'warn' : 'fail',
      detail: `missing or changed: ${undone.map(({ title }) => title).join(', ')}`,
      fix: 'sudo agentjail setup',
      repair: async () => {
        for (const step of undone) await step.apply()
      },
    }
  },
})

const accounts: Check = {
  name: 'accounts',
  why: 'whoever has an id of the reserved range has no network',
  run: async ({ system, config }) => {
    const { first, last } = config.uidRange
    const own = new Set((await listMacAccounts(system)).map(({ name }) => name))
    const strangers = [...(await listRecords(system, 'Users', 'UniqueID'))].flatMap(
      ([name, uid]) =>
        Number(uid) >= first && Number(uid) <= last && !own.has(name) ? [name] : [],
    )
    if (strangers.length === 0) return ok(`${rangeText(config.uidRange)} is agentjail's alone`)
    return {
      state: 'fail',
      detail: `others have ids of ${rangeText(config.uidRange)}: ${strangers.join(', ')}`,
      fix: 'set another uidRange in /etc/agentjail/config.yaml',
    }
  },
}

/** Readable by root with Full Disk Access, by nobody without. */
const guarded = '/Library/Application Support/com.apple.TCC'

const fullDiskAccess: Check = {
  name: 'full-disk-access',
  why: 'macOS may refuse to make or remove a jail’s user without it',
  run: async ({ isRoot, system }) => {
    if (!isRoot) return needsRoot('whether this program has Full Disk Access')
    try {
      await system.list(guarded)
      return ok('given')
    } catch {
      return {
        state: 'warn',
        detail: 'not given to the program that started this',
        fix: 'System Settings > Privacy & Security > Full Disk Access: the terminal, or sshd-keygen-wrapper for SSH',
      }
    }
  },
}

const readable: Check = {
  name: 'readable',
  why: 'the gate runs as a user of its own, which starts Node and agentjail where they are',
  run: async ({ system }) => {
    for (const path of [realpathSync(process.execPath), gateMain]) {
      const closed = await closedTo(system, -1, path)
      if (closed !== undefined)
        return { state: 'fail', detail: `${closed} is closed to others`, fix: readableHint }
    }
    return ok('Node and agentjail can be read by every user')
  },
}

const homes: Check = {
  name: 'homes',
  why: 'macOS counts every account as staff, a jail’s too: what staff may read, a jail without its profile could',
  run: async ({ system }) => {
    const open: string[] = []
    for (const name of await system.list('/Users')) {
      const stat = await system.lstat(`/Users/${name}`)
      // Owned by people: system accounts and jails are elsewhere.
      if (stat?.kind === 'directory' && stat.uid >= 500 && (stat.mode & 0o077) !== 0)
        open.push(`/Users/${name}`)
    }
    if (open.length === 0) return ok('for their owners alone')
    return {
      state: 'warn',
      detail: `others may look into ${open.join(', ')}`,
      fix: `sudo chmod 0700 ${open.join(' ')}`,
    }
  },
}

const log: Check = {
  name: 'pflog',
  why: 'denials of the kernel are read from the interface pflog0, which each run makes if it can',
  run: async ({ system }) => {
    const { code } = await system.run(['/sbin/ifconfig', 'pflog0'])
    return ok(code === 0 ? 'pflog0 is there' : 'pflog0 is made by the first run')
  },
}

const leftovers: Check = {
  name: 'leftovers',
  why: 'what a jail that was killed left behind denies, and is collected by the next one',
  run: async ({ system, config, isRoot, collect }): Promise<Finding> => {
    if (!isRoot) return needsRoot('the registry of jails')
    const registry = openRegistry(system, config.stateDir)
    const entries = await registry.list()
    const alive = await Promise.all(entries.map(({ owner }) => isAlive(system, owner)))
    const running = new Set(entries.filter((_, at) => alive[at]).map(({ uid }) => uid))
    const dead = entries.filter((_, at) => !alive[at]).map(({ name }) => `jail ${name} died`)
    const broken = (await registry.broken()).map((name) => `the entry of ${name} cannot be read`)
    const strays: string[] = []
    for (const { name, uid } of await listMacAccounts(system)) {
      if (running.has(uid)) continue
      const [pid] = await system.processesOf(uid)
      if (pid !== undefined) strays.push(`process ${String(pid)} of ${name}`)
    }
    const found = [...dead, ...broken, ...strays]
    if (found.length === 0) return ok(`none; jails running: ${String(running.size)}`)
    return {
      state: strays.length > 0 ? 'fail' : 'warn',
      detail: found.slice(0, 10).join('; '),
      fix: 'sudo agentjail gc',
      ...(dead.length + broken.length > 0 && { repair: collect }),
    }
  },
}
