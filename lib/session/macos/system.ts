/**
 * What the door to the operating system has to ask differently on macOS: there is no /proc.
 * Invariant: a process is named for good by pid and start time; what cannot be asked is an error, never "none".
 */
import { JailError } from '../../errors.js'
import type { System } from '../../system/types.js'

const ps = '/bin/ps'
const sysctl = '/usr/sbin/sysctl'

/** The rest stays as `base` has it. */
export function darwinSystem(base: System): System {
  let boot: string | undefined
  return {
    ...base,
    platform: 'darwin',
    processStart: (pid) => processStart(base, pid),
    bootId: async () => (boot ??= await bootSession(base)),
    processesOf: (uid) => processesOf(base, uid),
  }
}

/** Seconds since the epoch; a zombie has ended. In UTC, whatever zone the Mac is carried to meanwhile. */
async function processStart(system: System, pid: number): Promise<number | undefined> {
  const argv = [ps, '-o', 'lstart=', '-o', 'stat=', '-p', String(pid)] as const
  const { code, stdout } = await system.run(argv, { env: { TZ: 'UTC' } })
  const match = /^(.*\d{4})\s+(\S+)\s*$/.exec(stdout.trim())
  if (code !== 0 || match?.[1] === undefined || match[2]?.startsWith('Z') === true) return undefined
  const start = Date.parse(`${match[1]} UTC`)
  return Number.isNaN(start) ? undefined : start / 1000
}

async function bootSession(system: System): Promise<string> {
  const { code, stdout } = await system.run([sysctl, '-n', 'kern.bootsessionuuid'])
  const id = stdout.trim()
  if (code === 0 && /^[0-9A-Fa-f-]{36}$/.test(id)) return id
  throw new JailError('STATE', 'macOS does not tell which boot this is (kern.bootsessionuuid)')
}

/** By effective, real and saved uid. */
async function processesOf(system: System, uid: number): Promise<readonly number[]> {
  // Each with an option of its own: where BSD's ps sees `=`, the rest of the argument is a header.
  const argv = [
    ps,
    '-A',
    ...['pid', 'uid', 'ruid', 'svuid', 'stat'].flatMap((key) => ['-o', `${key}=`]),
  ] as const
  const { code, stdout } = await system.run(argv)
  if (code !== 0) throw new JailError('STATE', 'ps does not list the processes')
  return stdout.split('\n').flatMap((line) => {
    const [pid, ...rest] = line.trim().split(/\s+/)
    const stat = rest.pop()
    const isHis = rest.map(Number).includes(uid)
    return pid !== undefined && isHis && stat?.startsWith('Z') !== true ? [Number(pid)] : []
  })
}
