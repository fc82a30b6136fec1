/**
 * `agentjail gc`: clears dead jails and state files that cannot be read.
 */
import { exitCode } from '../../errors.js'
import { collect } from '../../session/collect.js'
import { collectTools, makeState, openContext } from '../../session/context.js'
import { clearBroken, clearTemporary } from '../../session/broken.js'
import { withLock } from '../../session/lock.js'
import type { CommandIo } from '../io.js'

export async function gcCommand({ json }: { json: boolean }, io: CommandIo): Promise<number> {
  const context = await openContext()
  await makeState(context)
  const { cleared, kept } = await withLock(context, async () => {
    await context.backend.ensureStaticDeny(context.config.uidRange)
    await clearTemporary(context)
    const broken = await clearBroken(context)
    const dead = await collect(collectTools(context))
    return { cleared: [...broken.cleared, ...dead.cleared], kept: [...broken.kept, ...dead.kept] }
  })
  if (json) io.stdout.write(`${JSON.stringify({ cleared, kept })}\n`)
  else {
    for (const name of cleared) io.stdout.write(`cleared ${name}\n`)
    for (const { name, why } of kept)
      io.stderr.write(`agentjail: jail ${name} cannot be cleared: ${why}\n`)
  }
  return kept.length === 0 ? exitCode.ok : 1
}
