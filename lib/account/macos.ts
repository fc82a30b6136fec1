/**
 * Service users on macOS, by dscl alone: sysadminctl answers 0 when it failed, and removes homes before records.
 * Invariant: an account is used only if every attribute reads back as meant: its uid, its own group, no admin, no
 * shell, locked, hidden, a home that is its own and 0700.
 */
import { errorMessage, JailError } from '../errors.js'
import { accountComment } from '../plan/names.js'
import type { JailName } from '../plan/names.js'
import type { AccountFacts, Settings } from '../plan/types.js'
import type { System } from '../system/types.js'
import { deleteRecord, listRecords, readRecord, writeRecord } from './dscl.js'
import { nameFor, refuseUnfit } from './fit.js'
import type { AccountRequest } from './fit.js'
import { processCount } from '../system/passwd.js'

export interface MacAccount {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
  /** RealName: what marks an account as agentjail's. */
  readonly comment: string
}

const dsmemberutil = '/usr/bin/dsmemberutil'
/** Groups that would let the user become root, or read raw packets. */
const dangerousGroups = ['admin', 'wheel', 'access_bpf', '_developer'] as const
/** Role accounts; 200-400 are Apple's own. */
const gateUids = { first: 450, last: 499 }
const shell = '/usr/bin/false'

/** What would be used or made; changes nothing. */
export async function findMacAccount(
  system: System,
  settings: Settings,
  request: AccountRequest,
): Promise<AccountFacts> {
  const name = nameFor(request)
  const found = (await listMacUsers(system)).find((user) => user.name === name)
  if (found === undefined) {
    const uid = await freeUid(system, settings)
    return { name, uid, gid: uid, home: `${settings.homeDir}/${request.jail}`, exists: false }
  }
  refuseUnfit(found, settings, request)
  return { name, uid: found.uid, gid: found.gid, home: found.home, exists: true }
}

/** Makes it if need be, and checks it. Call it under the lock. `warn`: what is not as good as it could be. */
export async function ensureMacAccount(
  system: System,
  settings: Settings,
  account: AccountFacts,
  jail: JailName,
  warn: (text: string) => void,
): Promise<void> {
  if (!account.exists) await createAccount(system, settings, account, accountComment(jail))
  await checkAccount(system, account)
  await ensureHome(system, settings, account)
  if (await isMember(system, account.name, 'staff'))
    warn(
      `macOS counts ${account.name} as staff, as it does every account: keep homes of people at mode 0700`,
    )
}

/** Accounts marked as agentjail's. */
export async function listMacAccounts(system: System): Promise<MacAccount[]> {
  return (await listMacUsers(system)).filter(({ comment }) => comment.startsWith('agentjail '))
}

/** The home of any account, people's too; undefined: the directory has none with this uid. */
export async function macHomeOf(system: System, uid: number): Promise<string | undefined> {
  return (await listMacUsers(system)).find((user) => user.uid === uid)?.home
}

/**
 * Ends nothing: refuses while a process of the uid lives. Record first, home after: a refused removal leaves the
 * account whole, locked, and denied by the firewall. Under the lock.
 */
export async function removeMacAccount(
  system: System,
  settings: Settings,
  account: MacAccount,
): Promise<void> {
  const alive = await system.processesOf(account.uid)
  if (alive.length > 0)
    throw new JailError('ACCOUNT', `user ${account.name} still has ${processCount(alive)}`, {
      hint: 'end its jail first',
    })
  await deleteRecord(system, 'Users', account.name)
  await deleteRecord(system, 'Groups', account.name)
  if (account.home.startsWith(`${settings.homeDir}/`)) await system.removeDir(account.home)
}

/** The gate's user: outside the reserved range, no home, no shell. Made if absent; under the lock. */
export async function ensureMacGateUser(
  system: System,
  settings: Settings,
): Promise<{ uid: number; gid: number }> {
  const name = settings.gateUser
  const find = async (): Promise<MacAccount | undefined> =>
    (await listMacUsers(system)).find((user) => user.name === name)
  let user = await find()
  if (user === undefined) {
    const uid = firstFree(await takenIds(system), gateUids)
    if (uid === undefined)
      throw new JailError('ACCOUNT', `no free uid between 450 and 499 for the gate's user`)
    const account = { name, uid, gid: uid, home: '/var/empty', exists: false }
    await createAccount(system, settings, account, 'agentjail-gate')
    user = await find()
  }
  const { first, last } = settings.uidRange
  if (user === undefined || user.uid <= 0 || (user.uid >= first && user.uid <= last))
    throw new JailError('ACCOUNT', `the gate's user ${name} is missing or unfit`, {
      hint: `it must be neither root nor in the reserved range ${String(first)}-${String(last)}`,
    })
  return { uid: user.uid, gid: user.gid }
}

async function createAccount(
  system: System,
  settings: Settings,
  account: AccountFacts,
  comment: string,
): Promise<void> {
  const taken = await takenIds(system)
  if (taken.has(account.uid))
    throw new JailError('ACCOUNT', `uid ${String(account.uid)} is taken`, { hint: 'try again' })
  try {
    const group = new Map([
      ['PrimaryGroupID', String(account.gid)],
      ['Password', '*'],
    ])
    await writeRecord(system, 'Groups', account.name, group)
    const user = new Map([
      ['UserShell', shell],
      ['RealName', comment],
      ['UniqueID', String(account.uid)],
      ['PrimaryGroupID', String(account.gid)],
      ['NFSHomeDirectory', account.home],
      ['IsHidden', '1'],
      ['Password', '*'],
    ])
    await writeRecord(system, 'Users', account.name, user)
  } catch (error) {
    await removeHalf(system, account.name, error)
    throw error
  }
  const { first, last } = settings.uidRange
  // Never reused within a boot: a process of the old owner could still be there.
  if (account.uid >= first && account.uid <= last)
    await system.writeFile(`${settings.stateDir}/last-uid`, `${String(account.uid)}\n`, 0o600)
}

async function removeHalf(system: System, name: string, cause: unknown): Promise<void> {
  for (const kind of ['Users', 'Groups'] as const) {
    try {
      if ((await readRecord(system, kind, name, ['RecordName'])) === undefined) continue
      await deleteRecord(system, kind, name)
    } catch (error) {
      throw new JailError(
        'CLEANUP_PARTIAL',
        `${errorMessage(cause)}; and the half-made record /${kind}/${name} stays: ${errorMessage(error)}`,
        {
          hint: `${cause instanceof JailError ? (cause.hint ?? '') : ''}; then: sudo dscl . -delete /${kind}/${name}`,
          cause,
        },
      )
    }
  }
}

async function checkAccount(system: System, account: AccountFacts): Promise<void> {
  const wrong = (what: string): never => {
    throw new JailError('ACCOUNT', `user ${account.name} is not fit for a jail: ${what}`, {
      hint: `mend it, or remove it with: agentjail account remove ${account.name.replace(/^aj-/, '')}`,
    })
  }
  const keys = [
    'UniqueID',
    'PrimaryGroupID',
    'NFSHomeDirectory',
    'UserShell',
    'IsHidden',
    'Password',
  ]
  const record = await readRecord(system, 'Users', account.name, keys)
  if (record === undefined) return wrong('it is missing')
  const expected = [
    ['UniqueID', String(account.uid)],
    ['PrimaryGroupID', String(account.gid)],
    ['NFSHomeDirectory', account.home],
    ['UserShell', shell],
  ] as const
  for (const [key, value] of expected)
    if (record.get(key) !== value) wrong(`${key} is ${record.get(key) ?? 'missing'}, not ${value}`)
  const others = [...(await listRecords(system, 'Users', 'UniqueID'))].filter(
    ([name, uid]) => uid === String(account.uid) && name !== account.name,
  )
  if (others.length > 0) wrong(`${others[0]?.[0] ?? ''} has the same uid`)
  for (const group of dangerousGroups)
    if (await isMember(system, account.name, group)) wrong(`it is a member of ${group}`)
}

async function isMember(system: System, user: string, group: string): Promise<boolean> {
  const argv = [dsmemberutil, 'checkmembership', '-U', user, '-G', group] as const
  // A group that does not exist is an error of its own, and nobody's.
  return /^user is a member/.test((await system.run(argv)).stdout)
}

async function ensureHome(
  system: System,
  settings: Settings,
  account: AccountFacts,
): Promise<void> {
  if (!account.exists) await removeStaleHome(system, settings, account)
  const stat = await system.lstat(account.home)
  if (stat === undefined) {
    // By hand: createhomedir answers 0 when it made nothing, and copies a template for people.
    await system.makeDir(settings.homeDir, 0o755)
    await system.makeDir(account.home, 0o700)
  }
  // Root's own, closed, under root's own directory: made here, by a run that did not get further.
  if (stat === undefined || (stat.kind === 'directory' && stat.uid === 0 && stat.mode === 0o700))
    await system.chown(account.home, account.uid, account.gid)
  const made = await system.lstat(account.home)
  if (made?.kind !== 'directory' || made.uid !== account.uid || (made.mode & 0o077) !== 0)
    throw new JailError(
      'ACCOUNT',
      `the home ${account.home} of ${account.name} is not its own 0700 directory`,
      { hint: `sudo chown ${account.name}: ${account.home} && sudo chmod 0700 ${account.home}` },
    )
}

/** A removal that was killed took the record, and left the home to a uid that nobody has any more. */
async function removeStaleHome(
  system: System,
  settings: Settings,
  { home, uid }: AccountFacts,
): Promise<void> {
  const { first, last } = settings.uidRange
  const stat = await system.lstat(home)
  if (stat?.kind !== 'directory' || !home.startsWith(`${settings.homeDir}/`)) return
  if (stat.uid === uid || stat.uid < first || stat.uid > last) return
  const isSomebodys = (await listMacUsers(system)).some((user) => user.uid === stat.uid)
  if (!isSomebodys) await system.removeDir(home)
}

async function listMacUsers(system: System): Promise<MacAccount[]> {
  const uids = await listRecords(system, 'Users', 'UniqueID')
  const gids = await listRecords(system, 'Users', 'PrimaryGroupID')
  const homes = await listRecords(system, 'Users', 'NFSHomeDirectory')
  const comments = await listRecords(system, 'Users', 'RealName')
  return [...uids].map(([name, uid]) => ({
    name,
    uid: Number(uid),
    gid: Number(gids.get(name)),
    home: homes.get(name) ?? '',
    comment: comments.get(name) ?? '',
  }))
}

async function takenIds(system: System): Promise<Set<number>> {
  const uids = await listRecords(system, 'Users', 'UniqueID')
  const gids = await listRecords(system, 'Groups', 'PrimaryGroupID')
  return new Set([...uids.values(), ...gids.values()].map(Number))
}

async function freeUid(system: System, settings: Settings): Promise<number> {
  const { first, last } = settings.uidRange
  const taken = await takenIds(system)
  const lastUsed = Number(await system.readFile(`${settings.stateDir}/last-uid`)) || first - 1
  const inRange = [...taken].filter((uid) => uid >= first && uid <= last)
  const above = firstFree(taken, { first: Math.max(lastUsed, ...inRange) + 1, last })
  if (above !== undefined) return above
  for (let uid = first; uid <= last; uid++)
    if (!taken.has(uid) && (await system.processesOf(uid)).length === 0) return uid
  throw new JailError(
    'ACCOUNT',
    `no free uid in the reserved range ${String(first)}-${String(last)}`,
    {
      hint: 'remove accounts that are not needed: agentjail account list',
    },
  )
}

function firstFree(
  taken: ReadonlySet<number>,
  { first, last }: { readonly first: number; readonly last: number },
): number | undefined {
  for (let uid = first; uid <= last; uid++) if (!taken.has(uid)) return uid
  return undefined
}
