/**
 * Makes the host's /etc that of a fresh machine: the lab's resolver, its CA, the admin `alice`.
 * Invariant: writes go through the host's own root, never follow a link, never touch the machine.
 */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  chownSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { resolver4, wire } from './addresses.js'
import type { Sides } from './namespaces.js'

/** Where the lab's CA is on the host, for programs with roots of their own (Node: NODE_EXTRA_CA_CERTS). */
export const caPath = '/etc/ssl/lab-ca.pem'

export const prepareEtc = (sides: Sides, ca: string, caHash: string): void => {
  const root = `/proc/${sides.host}/root`
  const write = (path: string, text: string, mode = 0o644) => {
    if (lstatSync(root + dirname(path)).isSymbolicLink())
      throw new Error(`${dirname(path)}: a link`)
    rmSync(root + path, { force: true })
    writeFileSync(root + path, text, { flag: 'wx', mode })
  }
  const edit = (path: string, change: (lines: string[]) => string[], mode = 0o644) => {
    const lines = existsSync(root + path) ? readFileSync(root + path, 'utf8').split('\n') : []
    write(path, change(lines.filter((line) => line !== '')).join('\n') + '\n', mode)
  }
  // As on a machine that never saw agentjail, with uid 1000 free.
  const fresh = (lines: string[]) =>
    lines.filter((line) => !/^(aj-|agentjail|alice:|[^:]*:[^:]*:1000:)/.test(line))
  edit('/etc/passwd', (l) => [...fresh(l), 'alice:x:1000:1000:Alice:/home/alice:/bin/bash'])
  edit('/etc/group', (l) => [...fresh(l), 'alice:x:1000:'])
  edit('/etc/shadow', (l) => [...fresh(l), 'alice:*:19700:0:99999:7:::'], 0o640)
  edit('/etc/gshadow', (l) => [...fresh(l), 'alice:!::'], 0o640)
  mkdirSync(`${root}/etc/sudoers.d`, { recursive: true })
  write('/etc/sudoers.d/alice', 'alice ALL=(ALL:ALL) NOPASSWD: ALL\n', 0o440)
  for (const path of [
    '/etc/agentjail',
    '/var/lib/agentjail',
    '/var/log/agentjail',
    '/home/alice',
  ]) {
    rmSync(root + path, { recursive: true, force: true })
  }
  mkdirSync(`${root}/home/alice`, { mode: 0o700 })
  chownSync(`${root}/home/alice`, 1000, 1000)

  write('/etc/resolv.conf', `nameserver ${resolver4}\noptions timeout:2 attempts:2\n`)
  write('/etc/hostname', 'labhost\n')
  write('/etc/hosts', `127.0.0.1 localhost\n::1 localhost ip6-localhost\n${wire.host4} labhost\n`)
  edit('/etc/nsswitch.conf', (l) => [
    ...l.filter((line) => !line.startsWith('hosts:')),
    'hosts: files dns',
  ])

  write(caPath, ca)
  write(`/etc/ssl/certs/${caHash}.0`, ca)
  edit('/etc/ssl/certs/ca-certificates.crt', (l) => [...l, ca.trim()])
}
