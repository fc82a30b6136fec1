/**
 * Loads every policy of a directory as `run` would, what they extend included.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { errorMessage } from '../errors.js'

/** The messages of those that do not load; also where there is no policy at all. */
export async function findBrokenPolicies(dir: string): Promise<readonly string[]> {
  const { loadPolicy } = await import('../policy/loader.js')
  const files = (await readdir(dir)).filter((file) => file.endsWith('.yaml')).sort()
  if (files.length === 0) return [`there is no policy in ${dir}`]
  const broken: string[] = []
  for (const file of files) {
    await loadPolicy(join(dir, file)).catch((error: unknown) => {
      broken.push(...errorMessage(error).split('\n'))
    })
  }
  return broken
}
