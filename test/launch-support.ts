/**
 * Directories and processes for the launch tests. They need root and a real kernel: without, they fail.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { LaunchSpec } from '../lib/launch/types.js'

/** Of the reserved range; no account has them. */
export const jailUid = 1_900_099_871
export const caller = { uid: 4_321, gid: 4_321 }

if (process.getuid?.() !== 0) throw new Error('the launch tests need root: sudo npm test')

export interface Place {
  readonly root: string
  readonly home: string
  readonly workspace: string
  remove(): void
}

/** A home of the service user's, a workspace of the caller's, below one directory that all may enter. */
export function makePlace(): Place {
  const root = mkdtempSync('/var/tmp/agentjail-launch-')
  chmodSync(root, 0o755)
  const home = `${root}/home`
  const workspace = `${root}/workspace`
  mkdirSync(home, { mode: 0o700 })
  chownSync(home, jailUid, jailUid)
  mkdirSync(workspace)
  chownSync(workspace, caller.uid, caller.gid)
  return { root, home, workspace, remove: () => rmSync(root, { recursive: true, force: true }) }
}

export interface Result {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
  readonly events: readonly Record<string, unknown>[]
}

export interface Started {
  readonly child: ChildProcess
  /** Text so far. */
  output(): string
  /** Waits for an event of that type. */
  event(type: string): Promise<Record<string, unknown>>
  readonly result: Promise<Result>
}

type Override = Partial<Omit<LaunchSpec, 'env'>> & { readonly env?: readonly [string, string][] }

/** The spec as JSON, for the driver. */
export function specText(place: Place, command: readonly string[], override: Override = {}) {
  return JSON.stringify({
    jail: 'test',
    user: { name: 'aj-test', uid: jailUid, gid: jailUid, home: place.home },
    command,
    cwd: place.workspace,
    env: [
      ['PATH', '/usr/local/bin:/usr/bin:/bin'],
      ['HOME', place.home],
    ],
    isolation: 'namespace',
    fs: { read: [], write: [], deny: [] },
    limits: {},
    userNamespaces: false,
    resolvConf: 'nameserver 192.0.2.53\n',
    hosts: '127.0.0.1 localhost\n',
    protect: [],
    caller,
    without: [],
    stagingDir: `${place.root}/stage`,
    ...override,
  })
}

export const driverPath: string = fileURLToPath(new URL('launch-driver.js', import.meta.url))

export function start(place: Place, command: readonly string[], override: Override = {}): Started {
  const child = spawn(process.execPath, [driverPath], {
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    env: {
      PATH: '/usr/bin:/bin',
      AGENTJAIL_TEST_SPEC: specText(place, command, override),
      AGENTJAIL_TEST_EVENTS: '1',
      // Must not reach the command.
      AWS_SECRET_ACCESS_KEY: 'leaked',
    },
  })
  let stdout = ''
  let stderr = ''
  let text = ''
  const events: Record<string, unknown>[] = []
  const waiting: (() => void)[] = []
  child.stdout.setEncoding('utf8').on('data', (data: string) => (stdout += data))
  child.stderr.setEncoding('utf8').on('data', (data: string) => (stderr += data))
  child.stdio[3]?.on('data', (data: Buffer) => {
    const lines = (text + data.toString()).split('\n')
    text = lines.pop() ?? ''
    events.push(...lines.map((line) => JSON.parse(line) as Record<string, unknown>))
    for (const wake of waiting.splice(0)) wake()
  })
  const limit = setTimeout(() => child.kill('SIGKILL'), 30_000)
  const result = new Promise<Result>((resolve) => {
    child.on('close', (code, signal) => {
      clearTimeout(limit)
      for (const wake of waiting.splice(0)) wake()
      resolve({ code, signal, stdout, stderr, events })
    })
  })
  return {
    child,
    output: () => stdout,
    result,
    event: async (type) => {
      for (;;) {
        const found = events.find((event) => event['type'] === type)
        if (found !== undefined) return found
        if (child.exitCode !== null || child.signalCode !== null) {
          throw new Error(`the driver ended without ${type}: ${JSON.stringify(events)} ${stderr}`)
        }
        await new Promise<void>((resolve) => waiting.push(resolve))
      }
    },
  }
}

export async function run(place: Place, command: readonly string[], override: Override = {}) {
  const started = start(place, command, override)
  started.child.stdin?.end()
  return started.result
}

/** A script of sh. */
export async function sh(place: Place, script: string, override: Override = {}) {
  return run(place, ['sh', '-c', script], override)
}

/** Host pids of processes of that uid. */
export function processesOf(uid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return new RegExp(`^Uid:\\s+${String(uid)}\\s`, 'm').test(
          readFileSync(`/proc/${pid}/status`, 'utf8'),
        )
      } catch {
        return false
      }
    })
    .map(Number)
}

/** Waits until `holds`, at most ten seconds. */
export async function until(what: string, holds: () => boolean): Promise<void> {
  for (let n = 0; n < 500; n++) {
    if (holds()) return
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error(`never: ${what}`)
}

/** A program the tests need: absolute, or the test fails here. */
export function tool(name: string): string {
  return execFileSync('/usr/bin/which', [name], {
    encoding: 'utf8',
    env: { PATH: '/usr/bin:/bin:/usr/sbin:/sbin' },
  }).trim()
}
