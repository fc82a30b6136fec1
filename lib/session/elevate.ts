/**
 * Started by an ordinary user: the same command once more, through sudo.
 * Invariant: nothing is run as root that anyone but root and the caller could have changed.
 */
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { errnoCode, JailError } from '../errors.js'
import type { Ending } from '../launch/types.js'

const sudoPaths = ['/usr/bin/sudo', '/usr/local/bin/sudo', '/run/wrappers/bin/sudo']
/** Never handed over, whatever a policy says: they change what the privileged process itself runs. */
const forbidden = /^(NODE_|LD_|DYLD_|PERL|PYTHON|BASH_ENV$|ENV$|IFS$|SUDO_|PATH$)/

/** Runs `node script args` as root; resolves with how it ended. `passEnv`: names, never values, on the command line. */
export async function elevate(
  script: string,
  args: readonly string[],
  passEnv: readonly string[],
): Promise<Ending> {
  const sudo = sudoPaths.find((path) => statSync(path, { throwIfNoEntry: false })?.uid === 0)
  if (sudo === undefined) {
    throw new JailError('NOT_ROOT', 'this needs root, and sudo is not installed', {
      hint: 'run it as root, or install sudo',
    })
  }
  const node = realpathSync(process.execPath)
  const entry = realpathSync(script)
  refuseWritable(node)
  refuseWritable(entry)
  if ((await wait(spawn(sudo, ['-v'], { stdio: 'inherit' }))).code !== 0) {
    throw new JailError('NOT_ROOT', 'this needs root, and sudo refused', {
      hint: 'run it as root, or as a user who may use sudo',
    })
  }
  const names = passEnv.filter(
    (name) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name) && !forbidden.test(name),
  )
  const keep = names.length === 0 ? [] : [`--preserve-env=${names.join(',')}`]
  const child = spawn(sudo, [...keep, '--', node, entry, ...args], { stdio: 'inherit' })
  const relays = (['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const).map(
    (signal) => {
      const handler = (): void => {
        passOn(sudo, child.pid ?? 0, signal)
      }
      process.on(signal, handler)
      return [signal, handler] as const
    },
  )
  const { code, signal } = await wait(child)
  for (const [name, handler] of relays) process.off(name, handler)
  return signal === null ? { code: code ?? 125 } : { signal }
}

/** A user may not signal root's process; sudo may, and its ticket is fresh. Ctrl-C reaches the whole group by itself. */
function passOn(sudo: string, sudoPid: number, signal: NodeJS.Signals): void {
  if (signal === 'SIGINT' || signal === 'SIGQUIT') return
  const target = firstChild(sudoPid)
  if (target === undefined) return
  spawn(sudo, ['-n', '--', '/bin/kill', '-s', signal.slice(3), '--', String(target)], {
    stdio: 'ignore',
  }).on('error', () => undefined)
}

function firstChild(pid: number): number | undefined {
  try {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      const first = readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ')[0]
      if (first !== undefined && first !== '') return Number(first)
    }
  } catch (error) {
    if (errnoCode(error) !== 'ENOENT') throw error
  }
  return undefined
}

function refuseWritable(path: string): void {
  const own = process.getuid?.() ?? 0
  for (let at = path; ; at = dirname(at)) {
    const stat = statSync(at)
    const sticky = stat.isDirectory() && (stat.mode & 0o1000) !== 0 && at !== path
    if ((stat.uid !== 0 && stat.uid !== own) || ((stat.mode & 0o022) !== 0 && !sticky)) {
      throw new JailError('NOT_ROOT', `refusing to run ${path} as root: others can change ${at}`, {
        hint: `chmod go-w ${at}, or install agentjail where only root and you can write`,
      })
    }
    if (at === '/') return
  }
}

function wait(
  child: ReturnType<typeof spawn>,
): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      resolve({ code, signal })
    })
  })
}
