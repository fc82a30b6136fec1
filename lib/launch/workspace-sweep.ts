/**
 * After the last process of a jail: takes the placeholders away and tells what the command left that
 * would act on the caller.
 * Invariant: files in a workspace are removed with the caller's rights, never with root's.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Tree } from './mount-facts.js'
import type { LaunchSpec } from './types.js'
import { walkTree } from './workspace-walk.js'

/** @returns lines for the user. */
export async function sweepTrees(
  spec: LaunchSpec,
  trees: readonly Tree[],
): Promise<readonly string[]> {
  const lines: string[] = []
  for (const tree of trees) {
    if (tree.mode !== 'rw' || !tree.directory) continue
    const made = tree.guards.filter(({ make }) => make === 'placeholder')
    if (made.length > 0) {
      const paths = made.map(({ path }) => `${tree.path}/${path}`)
      await promisify(execFile)('/bin/rm', ['-f', '--', ...paths], spec.caller).catch(
        (error: unknown) => lines.push(`placeholders are left: ${String(error)}`),
      )
    }
    const before = new Set(tree.repositories)
    for (const path of walkTree(tree.path, new Set()).repositories) {
      if (before.has(path)) continue
      lines.push(
        `the command made a Git repository (${tree.path}/${path}): its settings and hooks run when you use git there`,
      )
    }
  }
  return lines
}
