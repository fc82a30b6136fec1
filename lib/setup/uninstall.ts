/**
 * What `agentjail uninstall` takes away.
 * Invariant: refuses while a process of a reserved user lives; accounts go before the deny does, and
 * where one could not be removed, the deny stays. Only what is marked as agentjail's is touched.
 */
import { dirname } from 'node:path'
import { listAccounts, removeAccount } from '../account/linux.js'
import { entryNamed } from '../system/passwd.js'
import type { PasswdEntry } from '../system/passwd.js'
import { iptablesBackend } from '../backend/iptables/index.js'
import { findIptables, forgetVariant, notedVariant } from '../backend/iptables/variant.js'
import { nftablesBackend } from '../backend/nftables/index.js'
import { JailError, errorMessage } from '../errors.js'
import { findTool, findTools } from '../system/tools.js'
import type { System } from '../system/types.js'
import { findBoot } from './boot.js'
import type { Config } from './config.js'
import { removeConfig, removeEmptyDir, removeFile, removeTree } from './remove.js'
import { processesInRange } from './deny.js'
import { findFirewall } from './firewall.js'
import { paths } from './units.js'

export interface UninstallOptions {
  readonly system: System
  readonly config: Config
  /** Logs and a changed configuration too. */
  readonly purge: boolean
  /** One line a thing done or kept. */
  readonly say: (line: string) => void
  /** Runs the removal of a jail's account while no jail of its name can start. */
  readonly claimed: <T>(account: PasswdEntry, work: () => Promise<T>) => Promise<T>
}

/** Goes on past failures and throws CLEANUP_PARTIAL with all of them at the end. Under the lock. */
export async function uninstall(options: UninstallOptions): Promise<void> {
  const { system, config, say } = options
  await refuseWhileRunning(options)
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
  const areAccountsGone = await removeAccounts(options, attempt)
  await attempt('the unit that denies at boot', () => removeBoot(options))
  await attempt(paths.tmpfiles, () => removeFile(system, paths.tmpfiles))
  for (const path of [paths.denyRules, ...Object.values(paths.denyIptables)])
    await attempt(path, () => removeFile(system, path))
  await attempt(paths.config, () => removeConfig(options))
  await attempt(paths.configDir, () => removeEmptyDir(system, paths.configDir))
  if (areAccountsGone) {
    await attempt('firewall tables', () => removeTables(system, config))
    await attempt(config.homeDir, () => removeTree(system, config.homeDir))
    const images = `${dirname(config.homeDir)}/images`
    await attempt(images, () => removeTree(system, images))
    await attempt(dirname(config.homeDir), () => removeOwnParent(system, config.homeDir))
    await attempt(config.stateDir, () => removeTree(system, config.stateDir))
  } else failures.push(`firewall tables and ${config.stateDir}: kept, since an account is left`)
  if (options.purge) await attempt(config.logDir, () => removeTree(system, config.logDir))
  else if ((await system.lstat(config.logDir)) !== undefined) say(`kept ${config.logDir}`)
  if (failures.length > 0) {
    throw new JailError('CLEANUP_PARTIAL', `not everything was removed:\n${failures.join('\n')}`, {
      hint: 'mend what is named and run it again',
    })
  }
}

async function refuseWhileRunning({ system, config }: UninstallOptions): Promise<void> {
  const [one, ...more] = await processesInRange(system, config.uidRange)
  if (one === undefined) return
  const others = more.length === 0 ? '' : ` and ${String(more.length)} more`
  throw new JailError(
    'STATE',
    `a jail is running: process ${String(one.pid)} (${one.name}) of uid ${String(one.uid)}${others}`,
    { hint: 'end it first; see: agentjail status' },
  )
}

type Attempt = (what: string, work: () => Promise<boolean>) => Promise<boolean>

async function removeAccounts(
  { system, config, claimed }: UninstallOptions,
  attempt: Attempt,
): Promise<boolean> {
  const { first, last } = config.uidRange
  // Marked *and* of the range: an account that only looks like ours is somebody's.
  const accounts = (await listAccounts(system)).filter(({ uid }) => uid >= first && uid <= last)
  const gate = entryNamed((await system.readFile('/etc/passwd')) ?? '', config.gateUser)
  const doomed = gate?.comment === 'agentjail-gate' ? [...accounts, gate] : accounts
  if (doomed.length === 0) return true
  const found = findTools(['useradd', 'userdel'])
  const tools = { useradd: found.get('useradd'), userdel: found.get('userdel') }
  let isAllGone = true
  for (const entry of doomed) {
    const isGone = await attempt(`user ${entry.name}`, async () => {
      // userdel leaves them, and the next owner of the name would have them.
      for (const spool of ['/var/spool/cron/crontabs', '/var/spool/cron']) {
        await removeFile(system, `${spool}/${entry.name}`)
      }
      const remove = () => removeAccount(system, config, tools, entry)
      await (entry === gate ? remove() : claimed(entry, remove))
      return true
    })
    isAllGone &&= isGone || entry === gate
  }
  return isAllGone
}

async function removeBoot({ system, config }: UninstallOptions): Promise<boolean> {
  const boot = await findBoot(system, findFirewall({ system, config }).load)
  const isThere =
    (await system.lstat(paths.unit)) !== undefined ||
    (await system.lstat(paths.openrc)) !== undefined
  if (isThere) await boot.remove()
  return isThere
}

async function removeTables(system: System, config: Config): Promise<boolean> {
  const hadIptables = await removeIptables(system, config)
  return (await removeNftables(system, config)) || hadIptables
}

async function removeIptables(system: System, config: Config): Promise<boolean> {
  const variant = await notedVariant(system, config.stateDir)
  if (variant === undefined) return false
  const perl = findTools(['perl']).get('perl')
  const tools = findIptables(variant, { ip: '', unshare: '', nsenter: '', perl })
  const { uidRange: range, stateDir } = config
  await iptablesBackend({ system, tools, range, stateDir }).uninstall()
  await forgetVariant(system, config.stateDir)
  return true
}

async function removeNftables(system: System, config: Config): Promise<boolean> {
  const nft = findTool('nft')
  if (nft.state !== 'found') return false
  const { stdout } = await system.run([nft.path, 'list', 'tables', 'inet'])
  if (!/^table inet agentjail/m.test(stdout)) return false
  const tools = { nft: nft.path, ip: '', unshare: '', nsenter: '', perl: '' }
  await nftablesBackend({ system, tools, stateDir: config.stateDir }).uninstall()
  return true
}

/** /var/lib/agentjail above the homes, if it is named so and nothing else is in it. */
async function removeOwnParent(system: System, homeDir: string): Promise<boolean> {
  const parent = dirname(homeDir)
  return parent.endsWith('/agentjail') ? await removeEmptyDir(system, parent) : false
}
