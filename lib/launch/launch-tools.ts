/**
 * The programs that a launch runs, by absolute path; whoever launches has found and checked them (`lib/system/tools.ts`).
 */
export interface LaunchTools {
  readonly perl: string
  readonly unshare: string
  /** Absent: not installed; only `basic` can do without. */
  readonly bwrap?: string
  /** A directory of root's, 0700, under which nothing is kept: the mounts are staged there, unseen by others. */
  readonly stagingDir: string
}

/** Of the tools a context has, those of a launch; mounts are staged below its state directory. */
export function launchTools(
  { perl, unshare, bwrap }: Omit<LaunchTools, 'stagingDir'>,
  stateDir: string,
): LaunchTools {
  return {
    perl,
    unshare,
    ...(bwrap === undefined ? {} : { bwrap }),
    stagingDir: `${stateDir}/stage`,
  }
}
