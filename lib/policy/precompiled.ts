/**
 * Bundled policies as the build compiled them: no YAML parser at a start.
 * Invariant: used only while it is newer than every bundled source.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { policyFromJson } from './json.js'
import type { Policy } from './types.js'

const bundleDir = join(dirname(dirname(fileURLToPath(import.meta.url))), 'bundle/policies')
const sourceDir = join(bundleDir, '../../../../policies')

/** Of one bundled name; `undefined`: load it from its source. */
export function loadPrecompiled(refs: readonly string[]): Policy | undefined {
  const [name] = refs
  if (name === undefined || refs.length !== 1 || !/^[a-z][a-z0-9-]*$/.test(name)) return undefined
  const path = join(bundleDir, `${name}.json`)
  try {
    const made = statSync(path).mtimeMs
    const newer = readdirSync(sourceDir).some(
      (file) => statSync(join(sourceDir, file)).mtimeMs > made,
    )
    return newer ? undefined : policyFromJson(readFileSync(path, 'utf8'))
  } catch {
    return undefined
  }
}
