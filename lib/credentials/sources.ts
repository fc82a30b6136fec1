/**
 * One reader for each source of a key.
 * Invariant: a file is judged on the descriptor that is read, a command is run without a shell, with
 * the caller's rights, in bounded time.
 */
import { closeSync, constants, fstatSync, lstatSync, openSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { errnoCode, JailError } from '../errors.js'
import type { Credential } from '../policy/types.js'
import type { CredentialFacts } from './resolve.js'

const maxBytes = 65_536
const commandMs = 15_000
/** Where a program of the policy is looked up: never the caller's PATH. */
const programDirs = ['/usr/local/bin', '/usr/bin', '/bin', '/opt/homebrew/bin']

/** The text of the source, or `undefined` where there is nothing. */
export async function readSource(
  credential: Credential,
  facts: CredentialFacts,
): Promise<string | undefined> {
  const { from, id } = credential
  switch (from.kind) {
    case 'env':
      return facts.callerEnv[from.name]
    case 'file':
      return readKeyFile(id, from.path, owners(facts), 0o077)
    case 'systemd': {
      const dir = facts.callerEnv['CREDENTIALS_DIRECTORY']
      if (dir === undefined || !path.isAbsolute(dir)) return undefined
      // systemd.exec(5): 0440 at most, owned by root; the directory itself is closed.
      return readKeyFile(id, path.join(dir, from.name), [0, facts.caller.uid], 0o037)
    }
    case 'exec':
      return await runForKey(id, locate(id, from.argv), facts)
    case 'keychain':
      if (process.platform !== 'darwin') {
        throw new JailError('PLATFORM', `credential ${id}: the keychain is part of macOS`, {
          hint: 'use env:, file:, exec: or systemd: here',
        })
      }
      return await runForKey(
        id,
        ['/usr/bin/security', 'find-generic-password', '-w', '-s', from.item],
        facts,
      )
  }
}

function owners(facts: CredentialFacts): number[] {
  return facts.isRootPolicy ? [0, facts.caller.uid] : [facts.caller.uid]
}

/** @param forbidden - Mode bits that must not be set. */
function readKeyFile(
  id: string,
  file: string,
  allowedOwners: readonly number[],
  forbidden: number,
): string | undefined {
  let opened
  try {
    // Non-blocking: a FIFO in its place must not hang the start.
    opened = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined
    throw new JailError('POLICY_UNSAFE', `credential ${id}: can't open ${file}`, { cause: error })
  }
  try {
    const stats = fstatSync(opened)
    if (!stats.isFile()) {
      throw new JailError('POLICY_UNSAFE', `credential ${id}: ${file} is not a regular file`)
    }
    if (!allowedOwners.includes(stats.uid)) {
      throw new JailError(
        'POLICY_UNSAFE',
        `credential ${id}: ${file} belongs to uid ${String(stats.uid)}`,
        { hint: `it must belong to uid ${allowedOwners.join(' or ')}` },
      )
    }
    if ((stats.mode & forbidden) !== 0) {
      const mode = (stats.mode & 0o777).toString(8).padStart(4, '0')
      throw new JailError(
        'POLICY_UNSAFE',
        `credential ${id}: ${file} is open to others (${mode})`,
        {
          hint: `chmod 600 ${file}`,
        },
      )
    }
    if (stats.size > maxBytes) {
      throw new JailError('POLICY_INVALID', `credential ${id}: ${file} is too large for a key`)
    }
    return readFileSync(opened, 'utf8')
  } finally {
    closeSync(opened)
  }
}

/** The program by absolute path; a bare name is looked up in the system's directories. */
function locate(id: string, argv: readonly string[]): readonly [string, ...string[]] {
  const [program = '', ...rest] = argv
  const candidates = program.includes('/')
    ? [program]
    : programDirs.map((dir) => path.join(dir, program))
  for (const candidate of candidates) {
    if (path.isAbsolute(candidate) && isThere(candidate)) return [candidate, ...rest]
  }
  throw new JailError('TOOL_MISSING', `credential ${id}: there is no program ${program}`, {
    hint: `give its absolute path, or install it in ${programDirs.join(', ')}`,
  })
}

function isThere(file: string): boolean {
  try {
    lstatSync(file)
    return true
  } catch {
    return false
  }
}

async function runForKey(
  id: string,
  argv: readonly [string, ...string[]],
  facts: CredentialFacts,
): Promise<string> {
  const [program, ...rest] = argv
  const { uid, gid, home } = facts.caller
  const isRoot = process.getuid?.() === 0
  // Few policies run a command for a key, and this import costs as much as all the rest.
  const { execa } = await import('execa')
  const result = await execa(program, rest, {
    // Dropped to the caller: its own stores open, root's don't.
    ...(isRoot ? { uid, gid } : {}),
    env: { PATH: programDirs.join(':'), HOME: home, LC_ALL: 'C' },
    extendEnv: false,
    cwd: '/',
    stdin: 'ignore',
    stderr: 'ignore',
    timeout: commandMs,
    maxBuffer: maxBytes,
    reject: false,
    shell: false,
  })
  // Its output is never part of a message: it may be the key.
  if (result.exitCode !== 0) {
    const why = result.timedOut
      ? 'took too long'
      : `failed (${String(result.exitCode ?? result.signal ?? 'not started')})`
    throw new JailError('POLICY_INVALID', `credential ${id}: ${program} ${why}`, {
      hint: 'run it by hand as the same user: it must print the key alone',
    })
  }
  return result.stdout
}
