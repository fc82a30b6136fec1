/**
 * What a launch does for `basic`, where no file system of its own can be made: in the one that is there.
 * Invariant: files are written where root alone may write.
 */
import { chmodSync, mkdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { caBundlePath, caPath, caVariables, type Trust } from './mount-plan.js'
import { caPaths } from './places.js'
import type { LaunchSpec } from './types.js'

/** Lines for the user: what the policy asks for, or they may expect, and is not held. */
export function bareNotes({ isolation, fs }: LaunchSpec, namespaces: boolean): string[] {
  if (isolation !== 'basic') return []
  const hasRules = [fs.read, fs.write, fs.deny].some((paths) => paths.length > 0)
  return [
    ...(namespaces
      ? []
      : [
          'no CAP_SYS_ADMIN here, so no namespaces: files, /tmp and the list of processes are the container\u2019s own',
        ]),
    ...(hasRules ? ['isolation basic does not hold the fs rules of the policy'] : []),
  ]
}

export interface OpenCa {
  /** Variables that lead programs to it. */
  readonly variables: ReadonlyMap<string, string>
  remove(): void
}

/**
 * The jail's CA as files that every account may read.
 * @param dir of root's own, that every account may enter; it is made.
 */
export function writeCa(dir: string, { own, merged }: Trust): OpenCa {
  mkdirSync(dir, { recursive: true })
  // Whatever the umask.
  for (const path of [dirname(dir), dir]) chmodSync(path, 0o755)
  const files = new Map([
    [caPath, ['ca.crt', `${own}\n`]],
    [caBundlePath, ['ca-bundle.crt', merged]],
  ] as const)
  for (const [name, text] of files.values()) {
    writeFileSync(`${dir}/${name}`, text)
    chmodSync(`${dir}/${name}`, 0o644)
  }
  const variables = [...caVariables].map(([name, path]) => {
    const file = files.get(path as typeof caPath)?.[0] ?? ''
    return [name, `${dir}/${file}`] as const
  })
  return {
    variables: new Map(variables),
    remove: () => {
      rmSync(dir, { recursive: true, force: true })
      try {
        rmdirSync(dirname(dir))
      } catch {
        // Another jail's is there.
      }
    },
  }
}

/** Text of the system's CA bundle; empty: none. */
export function systemRoots(): string {
  return caPaths.map(readQuietly).find((text) => text !== '') ?? ''
}

function readQuietly(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
