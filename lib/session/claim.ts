/**
 * Claims a jail's name and user: its entry in the registry, written before the first effect.
 * Invariant: one holder a name, one jail a user; who else asks is told who holds it.
 */
import { createScrub } from '../credentials/scrub.js'
import { JailError } from '../errors.js'
import { accountName, jailOf } from '../plan/names.js'
import type { Plan } from '../plan/types.js'
import { isAlive, ownIdentity } from '../system/process-identity.js'
import type { System } from '../system/types.js'
import type { JailAccount } from './platform.js'
import { entryVersion } from './registry.js'
import type { Registry, RegistryEntry } from './registry.js'

/** Throws NAME_TAKEN; ACCOUNT where `--user` named one that another jail has. */
export async function claimName(
  system: System,
  registry: Registry,
  plan: Plan,
): Promise<RegistryEntry> {
  const { account, jail, launch, policy, policies, isolation } = plan
  const entry: RegistryEntry = {
    v: entryVersion,
    name: jail,
    uid: account.uid,
    gid: account.gid,
    user: account.name,
    home: account.home,
    isolation,
    policy: policy.source,
    policies,
    cwd: launch.cwd,
    command: shownCommand(plan),
    since: system.now(),
    owner: await ownIdentity(system),
    phase: 'starting',
  }
  if (await registry.claim(entry)) {
    // The user that goes by the jail's name is claimed with it.
    if (account.name === accountName(jail)) return entry
    try {
      await refuseSharedUser(registry, entry)
      return entry
    } catch (error) {
      await registry.remove(jail)
      throw error
    }
  }
  const advice = `choose another name (--name ${jail}-2), or join it (--join ${jail})`
  throw await takenBy(system, registry, jail, advice)
}

/**
 * Runs `work` on a jail's account while its jail does not run, and cannot start. Call it under the lock.
 * @param command what is told to whoever wants to start one meanwhile.
 * Throws NAME_TAKEN.
 */
export async function withoutJail<T>(
  { system, registry }: { readonly system: System; readonly registry: Registry },
  command: readonly string[],
  { name: user, uid, gid, home, comment }: JailAccount,
  work: () => Promise<T>,
): Promise<T> {
  const jail = jailOf(comment)
  const isClaimed = await registry.claim({
    v: entryVersion,
    name: jail,
    uid,
    gid,
    user,
    home,
    isolation: 'namespace',
    policy: '',
    policies: [],
    cwd: '/',
    command,
    since: system.now(),
    owner: await ownIdentity(system),
    phase: 'ending',
  })
  if (!isClaimed) {
    throw await takenBy(system, registry, jail, `end it first: agentjail stop ${jail}`)
  }
  try {
    return await work()
  } finally {
    await registry.remove(jail)
  }
}

/** @param advice for where the jail runs. */
async function takenBy(
  system: System,
  registry: Registry,
  jail: string,
  advice: string,
): Promise<JailError> {
  const holder = await registry.read(jail)
  if (holder === undefined || !(await isAlive(system, holder.owner))) {
    return new JailError('NAME_TAKEN', `jail ${jail} is just being cleared`, { hint: 'try again' })
  }
  const since = new Date(holder.since).toISOString()
  const command = holder.command
    .join(' ')
    .replace(/[^\x20-\x7e]+/g, ' ')
    .slice(0, 80)
  return new JailError(
    'NAME_TAKEN',
    `jail ${jail} is running already: pid ${holder.owner.pid}, since ${since}, ${command}`,
    { hint: advice },
  )
}

/** Each claims first and looks then: of two at the same instant one at least sees the other. */
async function refuseSharedUser(
  registry: Registry,
  { name, uid, user }: RegistryEntry,
): Promise<void> {
  const other = (await registry.list()).find((entry) => entry.uid === uid && entry.name !== name)
  if (other === undefined) return
  throw new JailError('ACCOUNT', `user ${user} is jail ${other.name}'s already`, {
    hint: `end that jail first, or join it: --join ${other.name}`,
  })
}

/**
 * The command as it is shown and written down. Whoever gave a key as an argument showed it to every process of the
 * machine meanwhile; our files and answers do not repeat it.
 */
export function shownCommand({ launch, gate }: Pick<Plan, 'launch' | 'gate'>): readonly string[] {
  return launch.command.map(createScrub(gate.credentials))
}
