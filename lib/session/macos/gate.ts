/**
 * Starts the gate on macOS: perl, part of macOS, opens its sockets on loopback and becomes Node within a profile.
 * Invariant: the whole chain runs as the gate's user from its first instruction; it writes no file and starts nothing.
 */
import { spawn } from 'node:child_process'
import { realpathSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Argv } from '../../system/types.js'
import {
  gateMain,
  gateOver,
  modulesRoot,
  type GateProcess,
  type ListenerSpec,
} from '../gate-process.js'
import { listenScript } from '../listen-script.js'

export interface MacGateRequest {
  readonly node: string
  readonly specs: readonly ListenerSpec[]
  readonly user: { readonly uid: number; readonly gid: number }
  /** Absolute path; a test puts a modelled one in its place. */
  readonly sandboxExec?: string
}

export function spawnMacGate(request: MacGateRequest): GateProcess {
  const [program, ...args] = macGateArgv(request)
  const { uid, gid } = request.user
  const child = spawn(program, args, {
    cwd: '/',
    env: { PATH: '/usr/bin:/bin:/usr/sbin:/sbin', LC_ALL: 'C' },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc', 'pipe'],
    serialization: 'json',
    detached: true,
    uid,
    gid,
  })
  return gateOver(child, request.specs)
}

/** The proxy listens on IPv4 alone; what is taken over comes in by both families, on one port. */
export function macGateArgv({ node, specs, sandboxExec }: MacGateRequest): Argv {
  const isProxy = specs.every(({ role }) => role === 'proxy')
  return [
    '/usr/bin/perl',
    '-e',
    listenScript,
    '--',
    isProxy ? '127.0.0.1' : '127.0.0.1,::1',
    ...specs.map(({ proto }) => `${proto}:0`),
    '--',
    sandboxExec ?? '/usr/bin/sandbox-exec',
    '-p',
    gateProfile(realpathSync(node)),
    node,
    '--disable-proto=delete',
    gateMain,
  ]
}

function gateProfile(node: string): string {
  const quoted = (path: string): string => `"${path.replace(/[\\"]/g, '\\$&')}"`
  return [
    '(version 1)',
    '(allow default)',
    '(deny file-write*)',
    '(allow file-write* (literal "/dev/null"))',
    '(deny file-read* (subpath "/Users") (subpath "/Volumes") (subpath "/Library/Keychains"))',
    `(allow file-read* (subpath ${quoted(modulesRoot)}) (subpath ${quoted(dirname(dirname(node)))}))`,
    '(allow file-read-metadata)',
    '(deny process-fork)',
    '(deny signal)',
    '(allow signal (target self))',
    '',
  ].join('\n')
}
