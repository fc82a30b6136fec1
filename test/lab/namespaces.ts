/**
 * Makes the two sides of a lab and the wire between them.
 * Invariant: every process of a lab lives in one PID namespace that dies with the test process,
 * by SIGKILL too: its PID 1 ends when our pipe closes, and the parent-death signal ends its parent.
 */
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { marker } from './capture.js'
import { wire } from './addresses.js'
import { modules, root, scriptPath } from './paths.js'

export const toolEnv = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', HOME: '/root' }

export interface Sides {
  /** Process ids, on the machine, of each side's PID 1. */
  readonly internet: number
  readonly host: number
  /** Ends both, and everything in them. */
  end(): Promise<void>
}

const children = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)

const onlyChild = (pid: number): number => {
  const [child, ...more] = children(pid)
  if (!child || more.length > 0) throw new Error(`process ${pid} has not exactly one child`)
  return child
}

/** Arguments of nsenter: the internet shares the machine's root but for /run; the host has its own. */
export const enter = {
  internet: (sides: Sides) => ['-t', String(sides.internet), '-n', '-m', '-p'],
  host: (sides: Sides) => [
    '-t',
    String(sides.host),
    '-n',
    '-m',
    '-p',
    '-u',
    '-i',
    '-C',
    '-r',
    '-w',
  ],
}

/** Starts a helper of the lab's own on the internet's side. */
export const spawnInternet = (
  sides: Sides,
  argv: readonly string[],
  stdio: StdioOptions,
  env: Readonly<Record<string, string>> = {},
): ChildProcess =>
  spawn('/usr/bin/nsenter', [...enter.internet(sides), '--', ...argv], {
    stdio,
    env: { ...toolEnv, ...env },
  })

/** A lab's control groups are named so, in every hierarchy: the process that made it, and which of its labs. */
const groupPrefix = 'lab-'
let started = 0

const hierarchies = (): string[] =>
  [
    '/sys/fs/cgroup',
    ...readdirSync('/sys/fs/cgroup').map((name) => `/sys/fs/cgroup/${name}`),
  ].filter((path) => existsSync(`${path}/cgroup.procs`))

/** Of labs whose process is gone. */
const removeStaleGroups = (): void => {
  const names = new Set(hierarchies().flatMap((path) => readdirSync(path)))
  for (const name of names) {
    const owner = new RegExp(`^${groupPrefix}(\\d+)-\\d+$`).exec(name)?.[1]
    if (owner !== undefined && !existsSync(`/proc/${owner}`)) removeGroup(name)
  }
}

/** With the groups below it. One that still has processes stays. */
const removeGroup = (name: string): void => {
  for (const path of hierarchies()) removeTree(`${path}/${name}`)
}

const removeTree = (path: string): void => {
  try {
    for (const entry of readdirSync(path, { withFileTypes: true }))
      if (entry.isDirectory()) removeTree(`${path}/${entry.name}`)
    rmdirSync(path)
  } catch {
    // Gone, or its processes are just ending: the next lab takes it away.
  }
}

export const startSides = async (): Promise<Sides> => {
  if (process.getuid?.() !== 0) throw new Error('the lab needs root: run the tests as root')
  const visible = [...new Set([root, modules])]
  removeStaleGroups()
  const group = `${groupPrefix}${process.pid}-${++started}`
  const outer = spawn(
    '/usr/bin/setpriv',
    [
      ...['--pdeathsig', 'KILL', 'unshare', '--net', '--mount', '--pid', '--ipc', '--uts'],
      ...['--fork', '--kill-child', '--mount-proc'],
      ...['perl', scriptPath('init.pl'), group, scriptPath('host.pl'), ...visible],
    ],
    { stdio: ['pipe', 'pipe', 'pipe'], env: toolEnv },
  )
  const ended = once(outer, 'exit')
  let complaint = ''
  outer.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()))
  await Promise.race([
    once(outer.stdout, 'data'),
    ended.then(() => Promise.reject(new Error(`the lab did not start: ${complaint}`))),
  ])
  const internet = onlyChild(outer.pid ?? 0)
  const host = onlyChild(onlyChild(internet))
  const end = async () => {
    // PID 1 ends by itself, and the kernel reports it only when all others in its namespace are gone.
    outer.stdin.destroy()
    const late = setTimeout(() => outer.kill('SIGKILL'), 5_000)
    await ended
    clearTimeout(late)
    removeGroup(group)
  }
  const sides = { internet, host, end }
  try {
    await joinSides(sides)
  } catch (error) {
    await end()
    throw error
  }
  return sides
}

const joinSides = async (sides: Sides): Promise<void> => {
  const { hostLink, internetLink, hostMac, internetMac } = wire
  await batch(sides.internet, [
    'link set lo up',
    `link add ${internetLink} address ${internetMac} type veth peer name ${hostLink} address ${hostMac} netns ${sides.host}`,
    `link set ${internetLink} addrgenmode none`,
    `addr add ${wire.internet4}/30 dev ${internetLink}`,
    `addr add ${wire.internet6}/64 dev ${internetLink} nodad`,
    `link set ${internetLink} up`,
    `neigh replace ${wire.host4} lladdr ${hostMac} nud permanent dev ${internetLink}`,
    `neigh replace ${wire.host6} lladdr ${hostMac} nud permanent dev ${internetLink}`,
    // After the more specific route of the wire, the whole world is here.
    'route add local 0.0.0.0/0 dev lo table main',
    'route add local ::/0 dev lo table main',
    `route add multicast ${marker.group} dev ${internetLink} table main`,
  ])
  await batch(sides.host, [
    'link set lo up',
    `link set ${hostLink} addrgenmode none`,
    `addr add ${wire.host4}/30 dev ${hostLink}`,
    `addr add ${wire.host6}/64 dev ${hostLink} nodad`,
    `link set ${hostLink} up`,
    `neigh replace ${wire.internet4} lladdr ${internetMac} nud permanent dev ${hostLink}`,
    `neigh replace ${wire.internet6} lladdr ${internetMac} nud permanent dev ${hostLink}`,
    `route add default via ${wire.internet4}`,
    `route add ::/0 via ${wire.internet6}`,
  ])
}

const batch = async (pid: number, lines: readonly string[]): Promise<void> => {
  const ip = spawn('/usr/bin/nsenter', ['-t', String(pid), '-n', '--', 'ip', '-batch', '-'], {
    env: toolEnv,
  })
  ip.stdin.end(lines.join('\n') + '\n')
  const [exit, complaint] = await Promise.all([once(ip, 'exit'), text(ip.stderr)])
  if (exit[0] !== 0) throw new Error(`ip -batch: ${complaint}`)
}
