/** Finds what is compared with; what is not installed is reported, never skipped in silence. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../test/lab/paths.js'

export interface Rival {
  readonly name: string
  /** `undefined`: not installed. */
  readonly argv: ((command: readonly string[]) => readonly [string, ...string[]]) | undefined
  readonly at: 'lab' | 'bare'
}

const srt = join(root, 'bench/rivals/node_modules/@anthropic-ai/sandbox-runtime/dist/cli.js')
const settings = join(root, 'bench/rivals/srt-settings.json')

/** `emptyScript`: a module with nothing in it. */
export function findRivals(emptyScript: string): Rival[] {
  writeFileSync(
    settings,
    JSON.stringify({
      network: { allowedDomains: ['api.openai.com'], deniedDomains: [] },
      filesystem: { denyRead: [], allowWrite: ['/srv/bench'], denyWrite: [] },
    }),
  )
  const installed = (
    path: string,
    argv: (command: readonly string[]) => readonly [string, ...string[]],
  ): Rival['argv'] => (existsSync(path) ? argv : undefined)
  const debian = (
    name: string,
    at: Rival['at'],
    program: string,
    options: readonly string[],
  ): Rival => ({
    name,
    at,
    argv: installed(program, (command) => [program, ...options, ...command]),
  })
  return [
    { name: 'nothing', at: 'lab', argv: ([program = '', ...rest]) => [program, ...rest] },
    debian('setpriv', 'lab', '/usr/bin/setpriv', [
      '--reuid=1000',
      '--clear-groups',
      '--no-new-privs',
    ]),
    debian('bwrap --unshare-all', 'lab', '/usr/bin/bwrap', [
      '--unshare-all',
      '--ro-bind',
      '/',
      '/',
    ]),
    debian('sudo -u', 'lab', '/usr/bin/sudo', ['-n', '-u', 'alice']),
    { name: 'an empty Node script', at: 'lab', argv: () => [process.execPath, emptyScript] },
    {
      name: 'srt',
      at: 'lab',
      argv: installed(srt, (command) => [
        process.execPath,
        srt,
        '--settings',
        settings,
        '--',
        ...command,
      ]),
    },
    debian('firejail, default profile', 'bare', '/usr/bin/firejail', ['--quiet']),
    debian('firejail --noprofile --net=none', 'bare', '/usr/bin/firejail', [
      '--quiet',
      '--noprofile',
      '--net=none',
    ]),
  ]
}

/** A script for the empty Node start. */
export function makeEmptyScript(): string {
  const dir = join(root, 'dist/bench/made')
  mkdirSync(dir, { recursive: true })
  const path = join(dir, 'empty.mjs')
  writeFileSync(path, '')
  return path
}
