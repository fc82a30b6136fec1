/**
 * `allow --save`: the grant into a file that the next run reads.
 * Invariant: a file is written in place, through the descriptor that was checked: a new file renamed
 * over it would lose the mount that keeps it read-only inside the running jail.
 */
import { constants } from 'node:fs'
import { mkdir, open } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { errnoCode, errorMessage, JailError } from '../errors.js'
import { loadPolicies } from '../policy/loader.js'
import { isPath } from '../policy/ref.js'
import { paths } from '../setup/units.js'
import type { Destination } from './destination.js'
import { addToPolicyText, extendingPolicyText } from './policy-file.js'

export interface SaveRequest {
  readonly jail: string
  /** Of the running jail: as named on its command line, and where relative paths start. */
  readonly policies: readonly string[]
  readonly cwd: string
  readonly callerUid: number
}

export interface Saved {
  readonly path: string
  /** What `--policy` takes from now on to have it. */
  readonly refs: readonly string[]
  readonly isNew: boolean
}

/**
 * Adds it to the last file that the jail runs with; where all are bundled, to a file of the jail's
 * own under /etc/agentjail/policies, which extends them.
 * @throws JailError POLICY_INVALID or POLICY_UNSAFE; then nothing is changed.
 */
export async function saveGrant(request: SaveRequest, destination: Destination): Promise<Saved> {
  const file = request.policies.filter((ref) => !ref.startsWith('bundle:')).findLast(isPath)
  if (file !== undefined) {
    const path = resolve(request.cwd, file)
    await addToFile(path, destination, request.callerUid)
    return { path, refs: request.policies, isNew: false }
  }
  const path = `${paths.configDir}/policies/${request.jail}.yaml`
  const isNew = await create(
    path,
    extendingPolicyText(request.jail, request.policies, destination),
    request.callerUid,
  )
  if (!isNew) await addToFile(path, destination, request.callerUid)
  return { path, refs: [path], isNew }
}

async function create(path: string, text: string, callerUid: number): Promise<boolean> {
  await mkdir(dirname(path), { recursive: true, mode: 0o755 })
  try {
    const file = await open(path, 'wx', 0o644)
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    if (errnoCode(error) === 'EEXIST') return false
    throw unwritable(path, error)
  }
  await loadPolicies([path], { callerUid })
  return true
}

/**
 * Adds one grant to a policy file; false where it is there already. Comments and order stay.
 * @throws JailError POLICY_NOT_FOUND, POLICY_INVALID, POLICY_UNSAFE, STATE; then nothing is changed.
 */
export async function addToFile(
  path: string,
  destination: Destination,
  callerUid: number,
): Promise<boolean> {
  // As `run` reads it: owner and mode are judged, and every mistake is told before anything changes.
  const before = await loadPolicies([path], { callerUid })
  if (
    destination.grants.some(({ host, ports }) =>
      before.grants.some(
        (grant) =>
          grant.host.kind === host.kind &&
          grant.host.name === host.name &&
          grant.ports.some((range) =>
            ports.some(({ first }) => range.first <= first && first <= range.last),
          ),
      ),
    )
  ) {
    return false
  }
  let file
  try {
    file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    throw unwritable(path, error)
  }
  try {
    const old = await file.readFile('utf8')
    await overwrite(file, addToPolicyText(old, destination, path))
    try {
      await loadPolicies([path], { callerUid })
    } catch (error) {
      await overwrite(file, old)
      throw error
    }
  } finally {
    await file.close()
  }
  return true
}

async function overwrite(file: Awaited<ReturnType<typeof open>>, text: string): Promise<void> {
  const bytes = Buffer.from(text)
  await file.write(bytes, 0, bytes.length, 0)
  await file.truncate(bytes.length)
  await file.sync()
}

function unwritable(path: string, error: unknown): JailError {
  return new JailError('STATE', `${path} cannot be written: ${errorMessage(error)}`, {
    hint: 'the grant is in force in the running jail all the same; write it into the policy by hand',
    cause: error,
  })
}
