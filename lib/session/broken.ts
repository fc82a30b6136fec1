/**
 * State files that cannot be read: corrupted, truncated, of another version.
 * Invariant: nothing in them is believed; the account of that name, if it is ours, is emptied of processes first.
 */
import { basename, dirname } from 'node:path'
import { errorMessage } from '../errors.js'
import { endProcesses } from './processes.js'
import type { Collected } from './collect.js'
import type { Context } from './context.js'

/** Call it under the lock. */
export async function clearBroken({
  system,
  registry,
  backend,
  platform,
}: Context): Promise<Collected> {
  const cleared: string[] = []
  const kept: { name: string; why: string }[] = []
  const accounts = await platform.listAccounts()
  for (const name of await registry.broken()) {
    const account = accounts.find(({ comment }) => comment === `agentjail ${name}`)
    try {
      if (account !== undefined) {
        await endProcesses(system, account.uid)
        await backend.collect({ name, uid: account.uid, isolation: 'uid' })
      }
      await registry.remove(name)
      cleared.push(name)
    } catch (error) {
      kept.push({ name, why: errorMessage(error) })
    }
  }
  return { cleared, kept }
}

/** Half-written files of processes that were killed while they wrote. */
export async function clearTemporary({ system, config }: Context): Promise<void> {
  for (const dir of [config.stateDir, `${config.stateDir}/jails`]) {
    for (const name of await system.list(dir)) {
      const pid = /\.([0-9]+)-[0-9a-z]+\.tmp$/.exec(name)?.[1]
      if (pid === undefined || (await system.processStart(Number(pid))) !== undefined) continue
      await system.removeFile(`${dir}/${name}`)
    }
  }
  const beside = dirname(config.stateDir)
  for (const name of await system.list(beside)) {
    if (!name.startsWith(`${basename(config.stateDir)}.lock.`)) continue
    const holder = name.slice(`${basename(config.stateDir)}.lock.`.length)
    if ((await system.processStart(Number.parseInt(holder))) !== undefined) continue
    await system.leaveDir(`${beside}/${name}`, holder)
  }
}
