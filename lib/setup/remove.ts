/**
 * What an uninstall takes away from the file system, alike everywhere: each tells whether there was something.
 */
import type { System } from '../system/types.js'
import { defaultConfigText } from './config.js'
import { paths } from './units.js'

/** A configuration that somebody changed stays, unless everything is to go. */
export async function removeConfig({
  system,
  purge,
  say,
}: {
  readonly system: System
  readonly purge: boolean
  readonly say: (line: string) => void
}): Promise<boolean> {
  const text = await system.readFile(paths.config)
  if (text !== undefined && text !== defaultConfigText && !purge) {
    say(`kept ${paths.config}: it was changed`)
    return false
  }
  return await removeFile(system, paths.config)
}

export async function removeFile(system: System, path: string): Promise<boolean> {
  const stat = await system.lstat(path)
  if (stat === undefined || stat.kind === 'directory') return false
  await system.removeFile(path)
  return true
}

export async function removeTree(system: System, path: string): Promise<boolean> {
  if ((await system.lstat(path))?.kind !== 'directory') return false
  await system.removeDir(path)
  return true
}

export async function removeEmptyDir(system: System, path: string): Promise<boolean> {
  if ((await system.list(path)).length > 0) return false
  return await removeTree(system, path)
}
