/**
 * The programs that a launch runs, by absolute path.
 * Invariant: PATH is never searched; a program that someone other than root could change is refused.
 */
import { statSync } from 'node:fs'
import { JailError } from '../errors.js'

export interface LaunchTools {
  readonly perl: string
  readonly setpriv: string
  readonly unshare: string
  /** Absent: not installed; only `basic` can do without. */
  readonly bwrap?: string
  /** A directory of root's, 0700, under which nothing is kept: the mounts are staged there, unseen by others. */
  readonly stagingDir: string
}

const directories = ['/usr/bin', '/bin', '/usr/sbin', '/sbin', '/usr/local/bin']
const packages = { perl: 'perl-base', setpriv: 'util-linux', unshare: 'util-linux' } as const

/** @throws JailError TOOL_MISSING */
export function findLaunchTools(stagingDir = '/run/agentjail/stage'): LaunchTools {
  const bwrap = find('bwrap')
  return {
    perl: need('perl'),
    setpriv: need('setpriv'),
    unshare: need('unshare'),
    ...(bwrap === undefined ? {} : { bwrap }),
    stagingDir,
  }
}

function need(name: keyof typeof packages): string {
  const path = find(name)
  if (path !== undefined) return path
  throw new JailError('TOOL_MISSING', `${name} is not installed`, {
    hint: `install ${packages[name]} (Debian, Ubuntu: apt-get install ${packages[name]})`,
  })
}

function find(name: string): string | undefined {
  for (const directory of directories) {
    const path = `${directory}/${name}`
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat?.isFile() !== true) continue
    if (stat.uid === 0 && (stat.mode & 0o022) === 0) return path
  }
  return undefined
}
