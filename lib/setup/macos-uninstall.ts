/**
 * What `agentjail uninstall` takes away on macOS.
 * Invariant: as on Linux: refuses while a process of a reserved user lives; accounts go before the deny does, and where
 * one could not be removed (no Full Disk Access), the deny stays. Only what is marked as agentjail's is touched.
 */
import { dirname } from 'node:path'
import { deleteRecord, listRecords } from '../account/dscl.js'
import { listMacAccounts, removeMacAccount } from '../account/macos.js'
import type { MacAccount } from '../account/macos.js'
import type { Backend } from '../backend/types.js'
import { errorMessage, JailError } from '../errors.js'
import {
  denyLabel,
  isJobLoaded,
  launchdDirectory,
  launchdServices,
  serviceLabel,
} from '../service/launchd.js'
import { parseJailName } from '../plan/names.js'
import type { System } from '../system/types.js'
import type { Config } from './config.js'
import { removeConfig, removeEmptyDir, removeFile, removeTree } from './remove.js'
import { paths } from './units.js'

export interface MacUninstall {
  readonly system: System
  readonly config: Config
  readonly backend: Backend
  /** Logs and a changed configuration too. */
  readonly purge: boolean
  /** One line a thing done or kept. */
  readonly say: (line: string) => void
  /** Runs the removal of a jail's account while no jail of its name can start. */
  readonly claimed: <T>(account: MacAccount, work: () => Promise<T>) => Promise<T>
}

const launchctl = '/bin/launchctl'

/** Goes on past failures and throws CLEANUP_PARTIAL with all of them at the end. Under the lock. */
export async function uninstallMac(options: MacUninstall): Promise<void> {
  const { system, config, backend, purge, say, claimed } = options
  await refuseWhileRunning(system, config)
  const failures: string[] = []
  const attempt = async (what: string, work: () => Promise<boolean>): Promise<boolean> => {
    try {
      if (await work()) say(`removed ${what}`)
      return true
    } catch (error) {
      failures.push(`${what}: ${errorMessage(error)}`)
      return false
    }
  }
  // They start jails again.
  for (const name of await serviceNames(system))
    await attempt(`service ${name}`, () =>
      launchdServices(system, config.logDir).uninstall(parseJailName(name)),
    )
  await attempt('the job that denies at boot', () => removeDenyJob(system))
  let areAccountsGone = true
  for (const account of await listMacAccounts(system)) {
    const { first, last } = config.uidRange
    // Marked *and* of the range: an account that only looks like ours is somebody's.
    if (account.uid < first || account.uid > last) continue
    areAccountsGone =
      (await attempt(`user ${account.name}`, async () => {
        await claimed(account, () => removeMacAccount(system, config, account))
        return true
      })) && areAccountsGone
  }
  await attempt(`user ${config.gateUser}`, () => removeGateUser(system, config.gateUser))
  let isNothingOwed = areAccountsGone
  if (areAccountsGone) {
    isNothingOwed = await attempt('pf rules', async () => {
      await backend.uninstall()
      return true
    })
    await attempt(config.homeDir, () => removeTree(system, config.homeDir))
    await attempt(dirname(config.homeDir), () => removeOwnParent(system, config.homeDir))
  } else failures.push('pf rules: kept, since an account is left')
  await attempt(paths.config, () => removeConfig(options))
  await attempt(paths.configDir, () => removeEmptyDir(system, paths.configDir))
  await attempt(`${config.stateDir}-ca`, () => removeTree(system, `${config.stateDir}-ca`))
  // What is needed to take the rules out later stays with them.
  if (isNothingOwed) await attempt(config.stateDir, () => removeTree(system, config.stateDir))
  if (purge) await attempt(config.logDir, () => removeTree(system, config.logDir))
  else if ((await system.lstat(config.logDir)) !== undefined) say(`kept ${config.logDir}`)
  if (failures.length > 0)
    throw new JailError('CLEANUP_PARTIAL', `not everything was removed:\n${failures.join('\n')}`, {
      hint: 'mend what is named and run it again',
    })
}

async function refuseWhileRunning(system: System, config: Config): Promise<void> {
  for (const { name, uid } of await listMacAccounts(system)) {
    const [pid, ...more] = await system.processesOf(uid)
    if (pid === undefined) continue
    const others = more.length === 0 ? '' : ` and ${String(more.length)} more`
    throw new JailError(
      'STATE',
      `a jail is running: process ${String(pid)} of user ${name}${others}`,
      { hint: 'end it first; see: agentjail status' },
    )
  }
  for (const name of await serviceNames(system)) {
    const { state } = await launchdServices(system, config.logDir).status(parseJailName(name))
    if (state === 'running')
      throw new JailError('STATE', `the service ${name} is running`, {
        hint: `end it first: agentjail service uninstall ${name}`,
      })
  }
}

async function serviceNames(system: System): Promise<string[]> {
  const prefix = serviceLabel('')
  return (await system.list(launchdDirectory)).flatMap((file) =>
    file.startsWith(prefix) && file.endsWith('.plist')
      ? [file.slice(prefix.length, -'.plist'.length)]
      : [],
  )
}

async function removeDenyJob(system: System): Promise<boolean> {
  const path = `${launchdDirectory}/${denyLabel}.plist`
  const isLoaded = await isJobLoaded(system, denyLabel)
  if (isLoaded) {
    const { code, stderr } = await system.run([launchctl, 'bootout', `system/${denyLabel}`])
    if (code !== 0 && (await isJobLoaded(system, denyLabel)))
      throw new JailError('STATE', `launchd does not let go of ${denyLabel}: ${stderr.trim()}`)
  }
  return (await removeFile(system, path)) || isLoaded
}

async function removeGateUser(system: System, name: string): Promise<boolean> {
  if ((await listRecords(system, 'Users', 'RealName')).get(name) !== 'agentjail-gate') return false
  await deleteRecord(system, 'Users', name)
  await deleteRecord(system, 'Groups', name)
  return true
}

/** /var/agentjail above the homes, if it is named so and nothing else is in it. */
async function removeOwnParent(system: System, homeDir: string): Promise<boolean> {
  const parent = dirname(homeDir)
  return parent.endsWith('/agentjail') ? await removeEmptyDir(system, parent) : false
}
