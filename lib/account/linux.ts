/**
 * Service users on Linux: made, checked and removed by the distribution's own tools.
 * Invariant: an account is used only if it reads back as meant: its uid, no group but its own, no subordinate
 * range, locked, expired, a home that is its own and 0700.
 */
import { JailError } from '../errors.js'
import { accountComment } from '../plan/names.js'
import type { JailName } from '../plan/names.js'
import type { AccountFacts, Settings } from '../plan/types.js'
import { nameFor, refuseUnfit } from './fit.js'
import type { AccountRequest } from './fit.js'
import type { Argv, System } from '../system/types.js'
import {
  entriesWith,
  entryNamed,
  groupsOf,
  hasSubordinateRange,
  isExpired,
  parsePasswd,
  processCount,
} from '../system/passwd.js'
import type { PasswdEntry } from '../system/passwd.js'

export interface AccountTools {
  readonly useradd: string
  readonly userdel: string
}

/** What would be used or made; changes nothing. */
export async function findAccount(
  system: System,
  settings: Settings,
  request: AccountRequest,
): Promise<AccountFacts> {
  const text = await passwd(system)
  const name = nameFor(request)
  const entry = entryNamed(text, name)
  if (entry === undefined) {
    const uid = await freeUid(system, settings, parsePasswd(text))
    return {
      name,
      uid,
      gid: uid,
      home: `${settings.homeDir}/${request.jail}`,
      exists: false,
    }
  }
  refuseUnfit(entry, settings, request)
  return { name, uid: entry.uid, gid: entry.gid, home: entry.home, exists: true }
}

/** Makes it if need be, and checks it; gives it as it is: useradd chooses the group's number. Call it under the lock. */
export async function ensureAccount(
  system: System,
  settings: Settings,
  tools: AccountTools,
  account: AccountFacts,
  jail: JailName,
): Promise<AccountFacts> {
  if (!account.exists) await createAccount(system, settings, tools, account, jail)
  await ensureExpired(system, tools, account.name)
  const { gid } = await checkAccount(system, account)
  const real = { ...account, gid }
  await ensureHome(system, settings, real)
  return real
}

async function createAccount(
  system: System,
  settings: Settings,
  tools: AccountTools,
  account: AccountFacts,
  jail: JailName,
): Promise<void> {
  // Never reused within a boot, whatever fails from here on: a process of the old owner could still be there.
  await system.writeFile(`${settings.stateDir}/last-uid`, `${account.uid}\n`, 0o600)
  await must(system, 'make', [
    tools.useradd,
    '--system',
    // Without it the last-login file grows to uid x 292 bytes.
    '--no-log-init',
    '--no-create-home',
    '--user-group',
    '--uid',
    String(account.uid),
    '--home-dir',
    account.home,
    '--shell',
    '/usr/sbin/nologin',
    '--comment',
    accountComment(jail),
    '--',
    account.name,
  ])
}

/**
 * Locked by having no password, and expired: cron and at run nothing for an expired account.
 * A step of its own: `useradd --system` takes an expiry date and forgets it (shadow 4.13).
 */
async function ensureExpired(system: System, tools: AccountTools, name: string): Promise<void> {
  if (isExpired((await system.readFile('/etc/shadow')) ?? '', name)) return
  // Of the same package, in the same directory.
  const usermod = tools.useradd.replace(/useradd$/, 'usermod')
  await must(system, 'expire', [usermod, '--expiredate', '1970-01-02', '--', name])
  if (isExpired((await system.readFile('/etc/shadow')) ?? '', name)) return
  throw new JailError('ACCOUNT', `user ${name} does not expire: cron could run jobs as it`, {
    hint: `chage -E 1 ${name}`,
  })
}

async function checkAccount(system: System, account: AccountFacts): Promise<PasswdEntry> {
  const text = await passwd(system)
  const entry = entryNamed(text, account.name)
  const wrong = (what: string): never => {
    throw new JailError('ACCOUNT', `user ${account.name} is not fit for a jail: ${what}`, {
      hint: `mend it, or remove it with: agentjail account remove ${account.name.replace(/^aj-/, '')}`,
    })
  }
  if (entry?.uid !== account.uid)
    return wrong(`its uid is ${entry?.uid ?? 'missing'} instead of ${account.uid}`)
  const twin = entriesWith(text, account.uid).find(
    ({ name, uid }) => uid === account.uid && name !== account.name,
  )
  if (twin !== undefined) wrong(`${twin.name} has the same uid`)
  const groups = groupsOf((await system.readFile('/etc/group')) ?? '', account.name)
  if (groups.length > 0) wrong(`it is a member of ${groups.join(', ')}`)
  for (const file of ['/etc/subuid', '/etc/subgid']) {
    if (hasSubordinateRange((await system.readFile(file)) ?? '', account))
      wrong(`${file} gives it further ids`)
  }
  return entry
}

async function ensureHome(
  system: System,
  settings: Settings,
  account: AccountFacts,
): Promise<void> {
  const stat = await system.lstat(account.home)
  if (stat === undefined) {
    // Its parent is root's alone, so nobody can put a link in the way.
    await system.makeDir(settings.homeDir, 0o755)
    await system.makeDir(account.home, 0o700)
    await system.chown(account.home, account.uid, account.gid)
    return
  }
  if (stat.kind !== 'directory' || stat.uid !== account.uid || (stat.mode & 0o077) !== 0) {
    throw new JailError(
      'ACCOUNT',
      `the home ${account.home} of ${account.name} is not its own 0700 directory`,
      {
        hint: `chown ${account.name}: ${account.home} && chmod 0700 ${account.home}`,
      },
    )
  }
}

/** Accounts marked as agentjail's. */
export async function listAccounts(system: System): Promise<PasswdEntry[]> {
  return parsePasswd(await passwd(system)).filter(({ comment }) => comment.startsWith('agentjail '))
}

/** Ends nothing: refuses while a process of the uid lives. Removes the account and its home. Under the lock. */
export async function removeAccount(
  system: System,
  settings: Settings,
  tools: AccountTools,
  entry: PasswdEntry,
): Promise<void> {
  const alive = await system.processesOf(entry.uid)
  if (alive.length > 0) {
    throw new JailError('ACCOUNT', `user ${entry.name} still has ${processCount(alive)}`, {
      hint: 'end its jail first',
    })
  }
  await must(system, 'remove', [tools.userdel, '--', entry.name])
  if (entry.home.startsWith(`${settings.homeDir}/`)) await system.removeDir(entry.home)
}

/** The gate's user: outside the reserved range, no home, no shell. Made if absent; under the lock. */
export async function ensureGateUser(
  system: System,
  settings: Settings,
  tools: AccountTools,
): Promise<{ uid: number; gid: number }> {
  const find = async (): Promise<PasswdEntry | undefined> =>
    entryNamed(await passwd(system), settings.gateUser)
  const before = await find()
  if (before === undefined) {
    const options = [
      '--system',
      '--no-log-init',
      '--no-create-home',
      '--user-group',
      '--home-dir',
      '/nonexistent',
    ]
    const shell = ['--shell', '/usr/sbin/nologin', '--comment', 'agentjail-gate']
    const argv: Argv = [tools.useradd, ...options, ...shell, '--', settings.gateUser]
    await must(system, 'make', argv).catch(async (error: unknown) => {
      // Another first run was faster.
      if ((await find()) === undefined) throw error
    })
  }
  const entry = before ?? (await find())
  const { first, last } = settings.uidRange
  if (entry === undefined || entry.uid === 0 || (entry.uid >= first && entry.uid <= last)) {
    throw new JailError('ACCOUNT', `the gate's user ${settings.gateUser} is missing or unfit`, {
      hint: `it must be neither root nor in the reserved range ${first}-${last}`,
    })
  }
  return { uid: entry.uid, gid: entry.gid }
}

async function must(system: System, verb: string, argv: Argv): Promise<void> {
  // useradd waits for other writers of /etc/passwd for up to 15 seconds.
  const result = await system.run(argv, { timeout: 30_000 })
  if (result.code === 0) return
  const name = argv.at(-1) ?? ''
  throw new JailError(
    'ACCOUNT',
    `cannot ${verb} the user ${name}: ${result.stderr.trim().split('\n').at(-1) ?? ''}`,
  )
}

async function freeUid(
  system: System,
  settings: Settings,
  entries: readonly PasswdEntry[],
): Promise<number> {
  const { first, last } = settings.uidRange
  const taken = new Set(entries.flatMap(({ uid, gid }) => [uid, gid]))
  const lastUsed = Number(await system.readFile(`${settings.stateDir}/last-uid`)) || first - 1
  const highest = Math.max(lastUsed, ...[...taken].filter((uid) => uid >= first && uid <= last))
  for (let uid = highest + 1; uid <= last; uid++) if (!taken.has(uid)) return uid
  for (let uid = first; uid <= last; uid++)
    if (!taken.has(uid) && (await system.processesOf(uid)).length === 0) return uid
  throw new JailError('ACCOUNT', `no free uid in the reserved range ${first}-${last}`, {
    hint: 'remove accounts that are not needed: agentjail account list',
  })
}

async function passwd(system: System): Promise<string> {
  return (await system.readFile('/etc/passwd')) ?? ''
}
