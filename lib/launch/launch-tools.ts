/**
 * The programs that a launch runs, by absolute path; whoever launches has found and checked them (`lib/system/tools.ts`).
 */
import { dirname } from 'node:path'

export interface LaunchTools {
  readonly perl: string
  readonly unshare: string
  /** Absent: not installed; only `basic` can do without. */
  readonly bwrap?: string
  /** Whether namespaces and mounts can be made here; where not, only `basic` is left, and it makes none. */
  readonly namespaces: boolean
  /** A directory of root's, 0700, under which nothing is kept: the mounts are staged there, unseen by others. */
  readonly stagingDir: string
  /** Of root's own: the CA of each jail in `basic` lies below it, for every account to read. */
  readonly caDir: string
}

/** What a launch needs of a context; mounts are staged below its state directory. */
export function launchTools(context: {
  readonly tools: Pick<LaunchTools, 'perl' | 'unshare' | 'bwrap'>
  readonly namespaces: boolean
  readonly config: { readonly stateDir: string; readonly homeDir: string }
}): LaunchTools {
  const { perl, unshare, bwrap } = context.tools
  return {
    perl,
    unshare,
    ...(bwrap === undefined ? {} : { bwrap }),
    namespaces: context.namespaces,
    stagingDir: `${context.config.stateDir}/stage`,
    caDir: caDir(context.config),
  }
}

export function caDir({ homeDir }: { readonly homeDir: string }): string {
  return `${dirname(homeDir)}/ca`
}
