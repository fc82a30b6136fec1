/** Where the lab's own files are: the sources, for scripts that tsc does not copy, and the build. */
import { existsSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const findRoot = (directory: string): string =>
  existsSync(join(directory, 'package.json')) ? directory : findRoot(dirname(directory))

/** The package's root directory. */
export const root = findRoot(dirname(fileURLToPath(import.meta.url)))
/** Where dependencies really are: a link is followed. */
export const modules = realpathSync(join(root, 'node_modules'))
export const scriptPath = (name: string): string => join(root, 'test/lab', name)
export const builtPath = (name: string): string => join(root, 'dist/test/lab', name)
/** Of the programs that tests start on the host. */
export const fixturePath = (name: string): string => join(root, 'dist/test/fixtures', name)
export const agentjailPath = join(root, 'dist/bin/agentjail.cjs')
