/**
 * The place that a command finds on macOS: its temporary directory, the certificate it trusts, the shared workspace.
 * Invariant: whatever becomes of the start, the undo stack or the failing step itself takes it away again.
 */
import { rootCertificates } from 'node:tls'
import { JailError } from '../../errors.js'
import type { MacLaunchRequest } from '../../launch/macos/launch.js'
import { shareWorkspace } from '../../launch/macos/workspace.js'
import type { Facts, Plan } from '../../plan/types.js'
import type { Undo } from '../undo.js'
import { caPaths, sharePath, type MacParts } from './parts.js'
import { sharerFor } from './sharer.js'

interface Place {
  readonly parts: Pick<MacParts, 'system' | 'settings'>
  readonly plan: Plan
  readonly facts: Facts
  readonly undo: Undo
}

/** `ca`: the gate's certificate. Gives where the command finds it. */
export async function makePlace(
  place: Place,
  ca: string | undefined,
): Promise<MacLaunchRequest['ca']> {
  const own = ca === undefined ? undefined : await writeCa(place, ca)
  await makeTemporary(place)
  await share(place)
  return own
}

/** How the command is launched, but for what only the gate knows. */
export function launchRequest(
  { network, policy, launch }: Plan,
  { stateDir, logDir }: MacParts['settings'],
): MacLaunchRequest {
  const direct = (proto: 'tcp' | 'udp') =>
    [...network.pinned, ...network.kernel]
      .filter((grant) => grant.proto === proto)
      .flatMap(({ ports }) => ports)
  return {
    spec: launch,
    tcp: [...direct('tcp'), ...(policy.transparent ? network.gateTcp : [])],
    udp: [...direct('udp'), ...(policy.transparent ? network.gateUdp : [])],
    loopback: { connect: network.loopbackConnect, listen: network.loopbackListen },
    transparent: policy.transparent,
    hidden: [stateDir, logDir],
  }
}

/** Readable by the jail, written by root, in a directory of root's. */
async function writeCa(
  { parts: { system, settings }, plan, undo }: Place,
  pem: string,
): Promise<{ own: string; bundle: string }> {
  const { own, bundle } = caPaths(settings.stateDir, plan.jail)
  undo.push('remove the certificate', 'owed', async () => {
    await system.removeFile(own)
    await system.removeFile(bundle)
  })
  await system.makeDir(`${settings.stateDir}-ca`, 0o755)
  await system.writeFile(own, pem, 0o644)
  await system.writeFile(bundle, `${[pem, ...rootCertificates].join('\n')}\n`, 0o644)
  return { own, bundle }
}

/** Before any process of the user runs: it cannot have put a link in the way. */
async function makeTemporary({ parts: { system }, plan: { account } }: Place): Promise<void> {
  const path = `${account.home}/tmp`
  if ((await system.lstat(path)) !== undefined) return
  await system.makeDir(path, 0o700)
  await system.chown(path, account.uid, account.gid)
}

async function share({ parts: { system, settings }, plan, facts, undo }: Place): Promise<void> {
  const sharer = await sharerFor(system, facts.caller.uid)
  const journal = sharePath(settings.stateDir, plan.jail)
  const unshare = await shareWorkspace(system, plan.launch, sharer, journal)
  undo.push('take the shared workspace back', 'owed', async () => {
    const [line] = await unshare()
    if (line !== undefined) throw new JailError('STATE', line)
  })
}
