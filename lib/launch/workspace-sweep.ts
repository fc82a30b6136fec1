/**
 * After the last process of a jail: takes the placeholders away and tells what the command left that
 * would act on the caller.
 * Invariant: files in a workspace are removed with the caller's rights, never with root's.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Tree } from './mount-facts.js'
import type { LaunchSpec } from './types.js'
import { guardOf } from './guard-names.js'
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
    lines.push(...whatIsNew(tree))
  }
  return lines
}

/** Names in one line, at most. */
const named = 8

function whatIsNew({ path, guards, before }: Tree): string[] {
  const after = walkTree(path, new Set())
  const list = (names: readonly string[]): string =>
    [...names.slice(0, named).map((name) => JSON.stringify(name).slice(1, -1))].join(', ') +
    (names.length > named ? ` and ${String(names.length - named)} more` : '')
  const repositories = after.repositories.filter((name) => !before.repositories.includes(name))
  const known = new Set(guards.map((guard) => guard.path))
  const made = after.guards
    .map((guard) => guard.path)
    .filter((name) => guardOf(name) !== undefined && !known.has(name))
  const written = [...after.instructions].flatMap(([name, change]) =>
    before.instructions.get(name) === change ? [] : [name],
  )
  return [
    ...repositories.map(
      (name) =>
        `the command made a Git repository (${path}/${list([name])}): its settings and hooks run when you use git there`,
    ),
    ...(made.length === 0
      ? []
      : [
          `the command made ${list(made)} in ${path}: programs that you start there obey such files; look first`,
        ]),
    ...(written.length === 0
      ? []
      : [
          `the command wrote ${list(written)} in ${path}: agents that you start there follow it; look first`,
        ]),
  ]
}
