/** Where launchers are timed: on the lab's host, and beside it on the machine's own process table, offline. */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Lab } from '../test/lab/lab.js'
import type { Timed, ToTime } from './timer.js'

export interface Place {
  time(argv: ToTime['argv'], cwd: string): Promise<Timed>
  end(): void
}

const timer = fileURLToPath(new URL('timer.js', import.meta.url))
const env = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  USER: 'root',
  LOGNAME: 'root',
  LANG: 'C.UTF-8',
}

/** The lab's host: a network, accounts and firewall of its own. */
export function labPlace(lab: Lab): Place {
  const program = lab.spawn([process.execPath, timer, 'serve'], { timeout: 2 ** 31 - 1 })
  let count = 0
  return {
    time: async (argv, cwd) => {
      const id = ++count
      program.write(`${JSON.stringify({ id, argv, cwd, env })}\n`)
      const text = await program.until(new RegExp(`^#${String(id)} .*\\n`, 'm'), 150_000)
      const line = new RegExp(`^#${String(id)} (.*)$`, 'm').exec(text)?.[1] ?? '{}'
      return JSON.parse(line) as Timed
    },
    end: () => {
      program.end()
    },
  }
}

/**
 * Networkless, with private mounts, but the machine's own process table: firejail refuses to work where it sees no
 * kernel threads, as in the lab.
 */
export function barePlace(): Place {
  const child = spawn(
    '/usr/bin/setpriv',
    ['--pdeathsig', 'KILL', 'unshare', '--net', '--mount', process.execPath, timer, 'serve'],
    { stdio: ['pipe', 'pipe', 'inherit'], env },
  )
  const waiting = new Map<string, (timed: Timed) => void>()
  createInterface({ input: child.stdout }).on('line', (line) => {
    const [, id = '', json = '{}'] = /^#(\d+) (.*)$/.exec(line) ?? []
    waiting.get(id)?.(JSON.parse(json) as Timed)
  })
  let count = 0
  return {
    time: (argv, cwd) =>
      new Promise((resolve) => {
        const id = ++count
        waiting.set(String(id), resolve)
        child.stdin.write(`${JSON.stringify({ id, argv, cwd, env })}\n`)
      }),
    end: () => {
      child.stdin.end()
    },
  }
}
