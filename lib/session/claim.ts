/**
 * Claims a jail's name: its entry in the registry, written before the first effect.
 * Invariant: one holder a name; who else asks is told who holds it.
 */
import { createScrub } from '../credentials/scrub.js'
import { JailError } from '../errors.js'
import type { Plan } from '../plan/types.js'
import type { System } from '../system/types.js'
import { entryVersion, isAlive, ownIdentity } from './registry.js'
import type { Registry, RegistryEntry } from './registry.js'

/** Throws NAME_TAKEN. */
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
  if (await registry.claim(entry)) return entry
  const holder = await registry.read(jail)
  throw nameTaken(jail, holder, holder !== undefined && (await isAlive(system, holder.owner)))
}

/**
 * The command as it is shown and written down. Whoever gave a key as an argument showed it to every process of the
 * machine meanwhile; our files and answers do not repeat it.
 */
export function shownCommand({ launch, gate }: Pick<Plan, 'launch' | 'gate'>): readonly string[] {
  return launch.command.map(createScrub(gate.credentials))
}

function nameTaken(jail: string, holder: RegistryEntry | undefined, alive: boolean): JailError {
  if (holder === undefined || !alive) {
    return new JailError('NAME_TAKEN', `jail ${jail} is just being cleared`, { hint: 'try again' })
  }
  const since = new Date(holder.since).toISOString()
  return new JailError(
    'NAME_TAKEN',
    `jail ${jail} is running already: pid ${holder.owner.pid}, since ${since}, ${holder.command
      .join(' ')
      .replace(/[^\x20-\x7e]+/g, ' ')
      .slice(0, 80)}`,
    { hint: `choose another name (--name ${jail}-2), or join it (--join)` },
  )
}
