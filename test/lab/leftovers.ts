/**
 * What agentjail left behind on the lab's host: everything there is now that was not there before.
 * Invariant: it looks at the kernel and at the overlay's own changes, never at agentjail's word.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { listRules, type Firewall } from './firewall.js'
import type { Sides } from './namespaces.js'

export interface HostProcess {
  /** As the host counts. */
  readonly pid: number
  readonly uid: number
  readonly state: string
  readonly command: string
}

/** Each a sorted list of lines; equal lists mean equal states. */
export interface State {
  /** Of the firewall. */
  readonly rules: readonly string[]
  readonly links: readonly string[]
  readonly routes: readonly string[]
  readonly processes: readonly string[]
  readonly namespaces: readonly string[]
  readonly mounts: readonly string[]
  readonly cgroups: readonly string[]
  /** Paths of files added or changed on the host, with their types. */
  readonly files: readonly string[]
}

export const listProcesses = (sides: Sides): HostProcess[] => {
  const proc = `/proc/${sides.host}/root/proc`
  const found: HostProcess[] = []
  for (const entry of readdirSync(proc)) {
    if (!/^\d+$/.test(entry) || entry === '1') continue
    try {
      const status = readFileSync(`${proc}/${entry}/status`, 'utf8')
      const field = (name: string) => new RegExp(`^${name}:\\s+(\\S+)`, 'm').exec(status)?.[1] ?? ''
      const command = readFileSync(`${proc}/${entry}/cmdline`, 'utf8').split('\0').join(' ').trim()
      found.push({
        pid: Number(entry),
        uid: Number(field('Uid')),
        state: field('State'),
        command: command || `[${field('Name')}]`,
      })
    } catch {
      // It ended while we looked.
    }
  }
  return found
}

const listNamespaces = (sides: Sides): string[] => {
  const proc = `/proc/${sides.host}/root/proc`
  const found = new Set<string>()
  for (const entry of readdirSync(proc)) {
    if (!/^\d+$/.test(entry)) continue
    for (const kind of ['net', 'mnt', 'pid', 'ipc', 'uts', 'user', 'cgroup']) {
      try {
        found.add(readlinkSync(`${proc}/${entry}/ns/${kind}`))
      } catch {
        // It ended while we looked.
      }
    }
  }
  return [...found]
}

const walk = (directory: string, shown: string, found: string[]): void => {
  let names: string[]
  try {
    names = readdirSync(directory)
  } catch {
    return
  }
  for (const name of names) {
    const path = join(directory, name)
    let stat
    try {
      stat = lstatSync(path)
    } catch {
      continue
    }
    const kind = stat.isDirectory() ? '/' : ''
    found.push(join(shown, name) + kind)
    if (stat.isDirectory()) walk(path, join(shown, name), found)
  }
}

const listFiles = (sides: Sides): string[] => {
  const found: string[] = []
  walk(`/proc/${sides.internet}/root/run/lab/up`, '/', found)
  for (const place of ['run', 'tmp', 'home', 'srv', 'dev/shm']) {
    walk(`/proc/${sides.host}/root/${place}`, `/${place}`, found)
  }
  return found.filter((path) => !/^\/(work|root|proc|sys|mnt|dev)\/$/.test(path))
}

/** The host's own: other labs have theirs. */
const listCgroups = (sides: Sides): string[] => {
  const found: string[] = []
  walk(`/proc/${sides.host}/root/sys/fs/cgroup`, '/sys/fs/cgroup', found)
  return found.filter((path) => path.includes('agentjail') && path.endsWith('/'))
}

/** `show` runs a read-only command on the host and gives its output. */
export const takeState = async (
  sides: Sides,
  firewall: Firewall,
  show: (argv: readonly string[]) => Promise<string>,
): Promise<State> => {
  const [rules, links, routing, routes4, routes6] = await Promise.all([
    listRules(sides, firewall, show),
    show(['ip', '-o', 'link']),
    show(['ip', 'rule']),
    show(['ip', 'route', 'show', 'table', 'all']),
    show(['ip', '-6', 'route', 'show', 'table', 'all']),
  ])
  const lines = (text: string) => text.split('\n').filter((line) => line.trim() !== '')
  return {
    rules,
    links: lines(links).map(linkName).sort(),
    routes: [...lines(routing), ...lines(routes4), ...lines(routes6)]
      .filter((line) => !line.startsWith('multicast ff00::/8 dev eth0'))
      .sort(),
    processes: listProcesses(sides)
      .map(({ uid, command, state }) => `${uid} ${state} ${command}`)
      .sort(),
    namespaces: listNamespaces(sides).sort(),
    mounts: lines(readFileSync(`/proc/${sides.host}/mountinfo`, 'utf8')).sort(),
    cgroups: listCgroups(sides).sort(),
    files: listFiles(sides).sort(),
  }
}

/** Not its flags: the kernel's notice of a carrier comes late. */
const linkName = (line: string) => line.split(': ')[1] ?? line

export type Leftovers = { readonly [kind in keyof State]?: readonly string[] }

/** What `now` has and `before` has not (and, marked `-`, the other way). Empty kinds are absent. */
export const difference = (before: State, now: State): Leftovers => {
  const result: { -readonly [kind in keyof State]?: readonly string[] } = {}
  for (const kind of Object.keys(now) as (keyof State)[]) {
    const changed = [
      ...minus(now[kind], before[kind]),
      ...minus(before[kind], now[kind]).map((line) => `-${line}`),
    ]
    if (changed.length > 0) result[kind] = changed
  }
  return result
}

/** Multiset difference: a line that comes twice must go twice. */
const minus = (a: readonly string[], b: readonly string[]): string[] => {
  const left = [...b]
  return a.filter((line) => {
    const at = left.indexOf(line)
    if (at >= 0) left.splice(at, 1)
    return at < 0
  })
}
