/**
 * Times commands where it stands: it runs inside the namespaces that a launcher is to be measured in, so that
 * entering them is not counted. Lines of JSON in and out.
 */
import { spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'

export interface Timed {
  readonly ms: number
  /** Until the command ran, for commands that print `date +%s%N`. */
  readonly first: number
  readonly code: number | null
  readonly stderr: string
  readonly stdout: string
}

export interface ToTime {
  readonly id: number
  readonly argv: readonly [string, ...string[]]
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
}

if (process.argv[2] === 'serve') {
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, argv, cwd, env } = JSON.parse(line) as ToTime
    const [program, ...args] = argv
    const began = performance.now()
    const result = spawnSync(program, args, {
      cwd,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      encoding: 'utf8',
      timeout: 120_000,
    })
    const ms = performance.now() - began
    const timed: Timed = {
      ms,
      first: Number(result.stdout) / 1e6 - performance.timeOrigin - began,
      code: result.status,
      stderr: result.stderr.slice(0, 300),
      stdout: result.stdout.slice(0, 300),
    }
    process.stdout.write(`#${String(id)} ${JSON.stringify(timed)}\n`)
  }
}
