/**
 * Shares trees by access lists where the file system has no idmapped mounts.
 * Invariant: what stands in a workspace never leads root elsewhere (see `acl-script.ts`), the jail's user gets no right
 * that the caller lacks, and ownership is handed over only after every process of the jail is gone.
 */
import { spawn } from 'node:child_process'
import { JailError } from '../errors.js'
import { aclScript } from './acl-script.js'
import { callsText } from './fence-script.js'
import type { Tree } from './mount-facts.js'
import { noFollow, parseMachine } from '../system/syscall-numbers.js'
import type { LaunchSpec } from './types.js'

/** What the step for sharing found, which the one that takes back is given. */
interface Shared {
  readonly tree: Tree
  /** `DEVICE:INODE` of the tree's root. */
  readonly ident: string
  /** Lines on the lists that were there before. */
  readonly had: string
}

export interface Sharing {
  /** Lines for the user, at the start. */
  readonly notes: readonly string[]
  /** Takes it all back and gives new files to the caller; a line for each tree where that failed. */
  undo(): Promise<readonly string[]>
}

/**
 * Lets the service user do what the caller may, and write where the tree is writable; the caller keeps access to what it
 * makes. Guarded files get no entry that can write: their mode looks as before.
 * @param perl absolute path.
 * @throws JailError LAUNCH where a list cannot be set at all.
 */
export async function shareByAcl(
  spec: LaunchSpec,
  trees: readonly Tree[],
  perl: string,
): Promise<Sharing> {
  const notes: string[] = []
  const done: Shared[] = []
  const undo = async (): Promise<readonly string[]> => {
    const lines: string[] = []
    // An inner tree came later than the one around it.
    for (const { tree, ident, had } of done.splice(0).reverse()) {
      const { problems } = await step(spec, tree, perl, 'back', ident, had)
      lines.push(...problems.map((text) => `${tree.path} is not all handed back: ${text}`))
    }
    return lines
  }
  for (const tree of trees.filter(({ idmap }) => idmap)) {
    const said = await step(spec, tree, perl, 'share', '-', '')
    if (said.ident === undefined) {
      await undo()
      throw new JailError('LAUNCH', `${tree.path} cannot be shared: ${said.problems.join('; ')}`)
    }
    notes.push(...said.problems.map((text) => `sharing ${tree.path}: ${text}`))
    done.push({ tree, ident: said.ident, had: said.had })
  }
  return { notes, undo }
}

interface Said {
  readonly ident?: string
  readonly had: string
  readonly problems: readonly string[]
}

async function step(
  { user, caller }: LaunchSpec,
  tree: Tree,
  perl: string,
  what: 'share' | 'back',
  ident: string,
  input: string,
): Promise<Said> {
  const machine = parseMachine(process.arch)
  const ids = [user.uid, user.gid, caller.uid, caller.gid].map(String)
  const kept = tree.guards.flatMap(({ kind, path }) => [kind === 'hidden' ? 'hide' : 'ro', path])
  const argv = [
    ...['-e', aclScript, '--', callsText(machine), String(noFollow[machine]), what, ...ids],
    ...[ident, tree.mode === 'rw' ? '1' : '0', tree.path, ...kept],
  ]
  const child = spawn(perl, argv, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { PATH: '/usr/bin:/bin', LC_ALL: 'C' },
    cwd: '/',
  })
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)
  let out = ''
  let err = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
  const failed = await new Promise<string | undefined>((resolve) => {
    child.on('error', (error) => resolve(error.message))
    child.on('close', (code) => resolve(code === 0 ? undefined : `ended with ${String(code)}`))
  })
  const lines = out.split('\n')
  const after = (word: string): string[] =>
    lines.flatMap((line) => (line.startsWith(`${word} `) ? [line.slice(word.length + 1)] : []))
  const problems = after('problem')
  if (failed !== undefined) problems.push(err.split('\n')[0] || failed)
  const [found] = after('ident')
  return {
    ...(found === undefined || failed !== undefined ? {} : { ident: found }),
    had: lines.filter((line) => line.startsWith('had ')).join('\n') + '\n',
    problems,
  }
}
