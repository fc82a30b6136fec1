/**
 * Reads every policy of a directory as `run` would.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { formatProblem, parsePolicy } from '../policy/parse.js'

/** One message a mistake; also where there is no policy at all. */
export async function findBrokenPolicies(dir: string): Promise<readonly string[]> {
  const files = (await readdir(dir)).filter((file) => file.endsWith('.yaml')).sort()
  if (files.length === 0) return [`there is no policy in ${dir}`]
  const broken: string[] = []
  for (const file of files) {
    const parsed = parsePolicy(await readFile(join(dir, file), 'utf8'), join(dir, file))
    broken.push(...(parsed.problems ?? []).map(formatProblem))
  }
  return broken
}
