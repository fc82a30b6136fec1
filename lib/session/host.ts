/**
 * What is looked up about the host before planning.
 */
import { accessSync, constants, existsSync, readlinkSync } from 'node:fs'
import { homedir, hostname, networkInterfaces, release } from 'node:os'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isIP } from 'node:net'
import type { System } from '../system/types.js'
import type { Platform } from './platform.js'

/** nameserver lines of resolv.conf(5); none: the local host, as the resolver library takes it. */
export async function hostResolvers(system: System): Promise<{ address: string; port: number }[]> {
  const text = (await system.readFile('/etc/resolv.conf')) ?? ''
  const found = text.split('\n').flatMap((line) => {
    const address = /^\s*nameserver\s+(\S+)/.exec(line)?.[1]
    return address !== undefined && isIP(address) !== 0 ? [{ address, port: 53 }] : []
  })
  return found.length === 0 ? [{ address: '127.0.0.1', port: 53 }] : found.slice(0, 3)
}

/** Addresses of this machine's interfaces, without zone. */
export function hostAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((list) =>
    (list ?? []).map(({ address }) => address),
  )
}

export const hostName = (): string => hostname().replace(/[^A-Za-z0-9.-]/g, '') || 'localhost'

/** Directory of agentjail's package.json. This file is <root>/dist/lib/session/host.js. */
export const packageRoot = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))))

/** The user who called: through sudo, the one before it. */
export function callerIdentity(): { uid: number; gid: number } {
  const number = (name: string): number | undefined => {
    const text = process.env[name]
    return text !== undefined && /^[0-9]{1,10}$/.test(text) ? Number(text) : undefined
  }
  const uid = process.getuid?.() ?? 0
  const gid = process.getgid?.() ?? 0
  if (uid !== 0) return { uid, gid }
  return { uid: number('SUDO_UID') ?? uid, gid: number('SUDO_GID') ?? gid }
}

/** The caller's home: through sudo HOME is root's. `/` for an account that the system does not tell of. */
export async function callerHome(
  platform: Pick<Platform, 'homeOf'>,
  callerUid: number,
): Promise<string> {
  if (callerUid === process.getuid?.()) return homedir()
  const home = (await platform.homeOf(callerUid)) ?? process.env['SUDO_HOME']
  return home?.startsWith('/') === true ? home : '/'
}

/** The system's bundle of root certificates, for the gate to verify upstreams with. */
export async function systemRoots(system: System): Promise<string | undefined> {
  for (const path of [
    '/etc/ssl/certs/ca-certificates.crt',
    '/etc/pki/tls/certs/ca-bundle.crt',
    '/etc/ssl/cert.pem',
  ]) {
    const text = await system.readFile(path)
    if (text !== undefined) return text
  }
  return undefined
}

/** The inode of the first control group namespace (PROC_CGROUP_INIT_INO, <linux/proc_ns.h>). */
const firstGroupNamespace = 'cgroup:[4026531835]'

/**
 * Path below /sys/fs/cgroup, where nft looks for groups, of the group that holds those of all jails; undefined where
 * the kernel cannot tell a socket by its group: before Linux 5.13; no version 2 hierarchy that can be written to; in a
 * container whose kernel counts levels from the host's root (before 6.12).
 */
export function jailGroups(root = '/sys/fs/cgroup', kernel = release()): string | undefined {
  if (isBefore(kernel, 5, 13)) return undefined
  const mount = ['', 'unified/'].find((path) => existsSync(`${root}/${path}cgroup.controllers`))
  if (mount === undefined) return undefined
  try {
    accessSync(`${root}/${mount}`, constants.W_OK)
    const isFirst = readlinkSync('/proc/self/ns/cgroup') === firstGroupNamespace
    return isFirst || !isBefore(kernel, 6, 12) ? `${mount}agentjail` : undefined
  } catch {
    return undefined
  }
}

function isBefore(kernel: string, major: number, minor: number): boolean {
  const [first = 0, second = 0] = kernel.split(/[.-]/).map(Number)
  return first < major || (first === major && second < minor)
}
