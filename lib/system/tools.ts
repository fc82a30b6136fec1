/**
 * Finds the programs that root will run.
 * Invariant: never by $PATH; a program counts only where it, every link to it and every directory
 * above it belong to root and nobody else can write them.
 */
import { type Stats, lstatSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { JailError, errnoCode } from '../errors.js'
import { installLine, parseOsRelease } from './distro.js'

const systemDirs = ['/usr/sbin', '/usr/bin', '/sbin', '/bin'] as const

export interface FindOptions {
  /** Searched in order; for tests. */
  readonly directories?: readonly string[]
}

/** A map that has every name that was asked for. */
export type Tools<Name extends string> = Omit<ReadonlyMap<Name, string>, 'get'> & {
  get(name: Name): string
}

/** How a search for one program ended. */
export type Found =
  | { readonly state: 'found'; readonly path: string }
  | { readonly state: 'missing' }
  | { readonly state: 'unsafe'; readonly path: string; readonly problem: string }

/** Absolute paths by name. Throws TOOL_MISSING, for all that are missing at once. */
export function findTools<const Name extends string>(
  names: readonly Name[],
  options: FindOptions = {},
): Tools<Name> {
  const seen: SeenDirectories = new Map()
  const found = names.map((name) => [name, findTool(name, options, seen)] as const)
  const missing = found.filter(([, { state }]) => state === 'missing').map(([name]) => name)
  if (missing.length > 0) {
    const verb = missing.length === 1 ? 'is' : 'are'
    throw new JailError('TOOL_MISSING', `${missing.join(', ')} ${verb} not installed`, {
      hint: `run \`sudo agentjail setup\`, or: ${installLine(readDistro(), missing)}`,
    })
  }
  for (const [, tool] of found) {
    if (tool.state === 'unsafe') {
      throw new JailError('TOOL_MISSING', `${tool.path} is not safe to run as root`, {
        hint: tool.problem,
      })
    }
  }
  const paths = found.flatMap(([name, tool]) =>
    tool.state === 'found' ? [[name, tool.path] as const] : [],
  )
  // Every name asked for is in it, or this was not reached.
  return new Map(paths) as ReadonlyMap<Name, string> as Tools<Name>
}

/**
 * Looks for one program; the first directory that has it decides.
 * @param seen what a search just before found of directories, which most programs share.
 */
export function findTool(
  name: string,
  { directories = systemDirs }: FindOptions = {},
  seen: SeenDirectories = new Map(),
): Found {
  for (const directory of directories) {
    const path = join(directory, name)
    if (statLink(path) === undefined) continue
    const problem = findUnsafe(path, seen)
    return problem === undefined ? { state: 'found', path } : { state: 'unsafe', path, problem }
  }
  return { state: 'missing' }
}

/** Of a directory as it was named: where it really is, and what is wrong with it or one above it. */
type SeenDirectories = Map<string, { readonly real: string; readonly problem?: string }>

/** What makes this path writable by others than root, followed through its links; else `undefined`. */
function findUnsafe(path: string, seen: SeenDirectories): string | undefined {
  let current = path
  // Linux itself follows at most 40 links (path_resolution(7)).
  for (let hops = 0; hops < 40; hops++) {
    const { real, problem } = lookAtDirectory(dirname(current), seen)
    if (problem !== undefined) return problem
    const stat = statLink(current)
    if (stat === undefined) return `${current} does not exist`
    if (!stat.isSymbolicLink()) return problemOf(current, stat)
    current = resolve(real, readlinkSync(current))
  }
  return `${path} leads through too many links`
}

function lookAtDirectory(
  path: string,
  seen: SeenDirectories,
): { readonly real: string; readonly problem?: string } {
  const known = seen.get(path)
  if (known !== undefined) return known
  const real = realpathSync(path)
  let problem: string | undefined
  for (let above = real; problem === undefined; above = dirname(above)) {
    problem = problemOf(above, statLink(above))
    if (above === dirname(above)) break
  }
  const found = { real, ...(problem === undefined ? {} : { problem }) }
  seen.set(path, found)
  return found
}

function problemOf(path: string, stat: Stats | undefined): string | undefined {
  if (stat === undefined) return `${path} does not exist`
  if (stat.uid !== 0) return `${path} must belong to root: chown root ${path}`
  if ((stat.mode & 0o022) !== 0) return `${path} is writable by others: chmod go-w ${path}`
  return undefined
}

function statLink(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false })
}

/** os-release(5): /etc first, then /usr/lib. */
export function readDistro(): ReturnType<typeof parseOsRelease> {
  for (const path of ['/etc/os-release', '/usr/lib/os-release']) {
    try {
      return parseOsRelease(readFileSync(path, 'utf8'))
    } catch (error) {
      if (errnoCode(error) !== 'ENOENT') throw error
    }
  }
  return parseOsRelease('')
}
