/**
 * The chain that starts a jailed command on macOS, as argv. Pure.
 * Invariant: values of variables never stand in argv, where everybody reads them; only their names do.
 */
import { JailError } from '../../errors.js'
import type { Argv } from '../../system/types.js'

export interface MacLaunch {
  readonly user: { readonly name: string; readonly uid: number }
  readonly env: ReadonlyMap<string, string>
  /** Absent: none; only `verify --without` does that. */
  readonly profile: string | undefined
  /** Absolute path of the program first. */
  readonly command: readonly [string, ...string[]]
}

const launchctl = '/bin/launchctl'
const sudo = '/usr/bin/sudo'
const sandboxExec = '/usr/bin/sandbox-exec'

/**
 * launchctl takes the bootstrap and audit session of the user (not the caller's, whose agents and clipboard it
 * would reach), sudo the uid and groups, sandbox-exec the profile.
 */
export function macArgv({ user, env, profile, command }: MacLaunch): Argv {
  const names = [...env.keys()]
  for (const name of names)
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
      throw new JailError('LAUNCH', `${JSON.stringify(name)} is no name of a variable`)
  if (!command[0].startsWith('/')) throw new JailError('LAUNCH', 'the program has no absolute path')
  return [
    launchctl,
    'asuser',
    String(user.uid),
    sudo,
    '-n',
    ...(names.length === 0 ? [] : [`--preserve-env=${names.join(',')}`]),
    '-u',
    user.name,
    '-H',
    '--',
    ...(profile === undefined ? [] : [sandboxExec, '-p', profile]),
    ...command,
  ]
}
