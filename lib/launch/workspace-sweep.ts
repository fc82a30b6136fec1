/**
 * After the last process of a jail: takes the placeholders away and tells what the command left that
 * would act on the caller.
 * Invariant: files in a workspace are removed with the caller's rights, never with root's.
 */
import { execFile } from 'node:child_process'
import { lstatSync } from 'node:fs'
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
    const made = tree.guards.filter(({ make }) => make === 'placeholder' || make === 'empty')
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
  const policies = after.policies.filter((name) => !before.policies.includes(name))
  const changed = (was: ReadonlyMap<string, unknown>, is: ReadonlyMap<string, unknown>): string[] =>
    [...is].flatMap(([name, value]) => (was.get(name) === value ? [] : [name]))
  // A link cannot be held itself: neither may it lead elsewhere now, nor have become something else.
  const links = new Set([
    ...changed(before.links, after.links),
    ...[...before.links.keys()].filter((name) => !after.links.has(name) && isThere(path, name)),
  ])
  const line = (names: Iterable<string>, text: (names: string) => string): string[] => {
    const all = [...names]
    return all.length === 0 ? [] : [text(list(all))]
  }
  return [
    ...repositories.map(
      (name) =>
        `the command made a Git repository (${path}/${list([name])}): its settings and hooks run when you use git there`,
    ),
    ...line(
      made.filter((name) => !links.has(name)),
      (names) =>
        `the command made ${names} in ${path}: programs that you start there obey such files; look first`,
    ),
    ...line(
      links,
      (names) =>
        `the command changed ${names} in ${path}, a link that programs obey or git follows; look first`,
    ),
    ...line(
      policies,
      (names) =>
        `the command made ${names} in ${path}, which reads as a policy; look before you run with it`,
    ),
    ...line(
      changed(before.instructions, after.instructions),
      (names) =>
        `the command wrote ${names} in ${path}: agents that you start there follow it; look first`,
    ),
  ]
}

function isThere(root: string, name: string): boolean {
  return lstatSync(`${root}/${name}`, { throwIfNoEntry: false }) !== undefined
}
