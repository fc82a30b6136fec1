/**
 * What `agentjail verify` brings with it: a target beyond the host, services on the host, things to steal or break.
 * Invariant: only new things of its own names and addresses; `close` takes all of it away, whatever failed.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { JailError } from '../errors.js'
import type { System } from '../system/types.js'
import { plantFiles, type Planted } from './files.js'
import { answers, freePort, knock, openService } from './services.js'
import type { Witness } from './types.js'

/**
 * Addresses for tests between devices, which nobody routes: RFC 2544 (198.18.0.0/15), RFC 5180 (2001:2::/48).
 * The host's end first.
 */
const wire = {
  host4: '198.18.77.1',
  target4: '198.18.77.2',
  host6: '2001:2:0:4d::1',
  target6: '2001:2:0:4d::2',
} as const
const device = 'ajverify0'

export interface StageTools {
  readonly system: System
  readonly ip: string
  readonly unshare: string
  readonly nsenter: string
  readonly setpriv: string
  readonly perl: string
}

export interface Stage {
  readonly wire: typeof wire
  readonly device: string
  readonly hostPort: number
  readonly inboundPort: number
  readonly abstractName: string
  readonly socketPath: string
  readonly messageKey: number
  readonly metadata: boolean
  readonly files: Planted
  /** What arrived so far, by probe id. */
  witness(): Promise<Omit<Witness, 'leftover'>>
  close(): Promise<void>
}

/** @param names of the DNS probes: what arrives for them is told apart by name. */
export async function openStage(
  tools: StageTools,
  nonce: string,
  names: { readonly granted: string; readonly other: string; readonly tunnel: string },
): Promise<Stage> {
  const undo: (() => unknown)[] = []
  const close = async (): Promise<void> => {
    for (const step of undo.splice(0).reverse()) {
      await Promise.resolve(step()).catch(() => undefined)
    }
  }
  try {
    const inboundPort = await freePort()
    const families = await readFamilies(tools)
    const target = await openTarget(tools, { nonce, inboundPort, families }, undo)
    const heard = { text: '' }
    const abstractName = `agentjail-verify-${nonce}`
    const socketPath = `/run/${abstractName}.sock`
    const hostPort = await openService({ paths: [`\0${abstractName}`, socketPath], heard, undo })
    const messageKey = await openQueue(tools, undo)
    const files = await plantFiles(tools, nonce, undo)
    target.send('knock')
    const knocking = setInterval(() => {
      knock(wire.host4, inboundPort, nonce)
      knock('127.0.0.1', inboundPort, nonce)
    }, 150)
    undo.push(() => {
      clearInterval(knocking)
    })
    return {
      wire,
      device,
      inboundPort,
      hostPort,
      abstractName,
      socketPath,
      messageKey,
      metadata: await answers('169.254.169.254', 80),
      files,
      witness: async () => {
        const seen = (await ask(target)) + heard.text
        const arrived = new Set(
          [...seen.matchAll(new RegExp(`agentjail:${nonce}:([a-z0-9-]+);`, 'g'))].map(
            ([, id]) => id ?? '',
          ),
        )
        if (seen.toLowerCase().includes(`${names.tunnel};`)) arrived.add('dns-tunnel')
        // In a ClientHello names are in clear; in the query for one they are split into labels.
        if (seen.includes(names.other)) arrived.add('sni-other')
        return {
          arrived,
          counters: await readCounters(tools, target),
          control: seen.includes(names.granted),
          blind: blindTo(families),
        }
      },
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** What this host has of IPv6: in its kernel, on a new device, on its loopback. */
interface Families {
  readonly kernel: boolean
  readonly device: boolean
  readonly loopback: boolean
}

async function readFamilies({ system }: StageTools): Promise<Families> {
  const settings = '/proc/sys/net/ipv6/conf'
  const read = (device: string): Promise<string | undefined> =>
    system.readFile(`${settings}/${device}/disable_ipv6`)
  const [fresh, lo] = [await read('default'), await read('lo')]
  return {
    kernel: fresh !== undefined,
    device: fresh?.trim() === '0',
    loopback: lo?.trim() === '0',
  }
}

function blindTo({ device, loopback }: Families): ReadonlyMap<string, string> {
  const probes = [
    ...(device ? [] : ['tcp-ipv6', 'udp-ipv6', 'icmp-ipv6']),
    ...(loopback ? [] : ['loopback-ipv6']),
  ]
  return new Map(probes.map((id) => [id, 'this host has no IPv6']))
}

async function openTarget(
  tools: StageTools,
  {
    nonce,
    inboundPort,
    families,
  }: { readonly nonce: string; readonly inboundPort: number; readonly families: Families },
  undo: (() => unknown)[],
): Promise<ChildProcess> {
  const { system, nsenter, ip } = tools
  const script = fileURLToPath(new URL('../verify/target.js', import.meta.url))
  const args = [wire.target4, wire.host4, String(inboundPort), nonce, families.kernel ? '' : '4']
  const target = spawn(
    tools.setpriv,
    ['--pdeathsig', 'KILL', tools.unshare, '--net', '--', process.execPath, script, ...args],
    {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      cwd: '/',
    },
  )
  const gone = once(target, 'exit')
  undo.push(async () => {
    target.kill('SIGKILL')
    await gone
    // The other end goes with the namespace, but some moments later.
    await system.run([ip, 'link', 'del', device])
  })
  const [first] = (await Promise.race([once(target, 'message'), gone])) as unknown[]
  if (first !== 'ready') throw new JailError('STATE', 'the target of the battery does not start')
  const inside = [nsenter, `--net=/proc/${String(target.pid)}/ns/net`, '--'] as const
  await mustRun(
    tools,
    [ip, '-batch', '-'],
    [
      `link add ${device} type veth peer name target0 netns ${String(target.pid)}`,
      ...(families.device ? [`link set ${device} addrgenmode none`] : []),
      `addr add ${wire.host4}/30 dev ${device}`,
      ...(families.device ? [`addr add ${wire.host6}/64 dev ${device} nodad`] : []),
      `link set ${device} up`,
    ].join('\n'),
  )
  await mustRun(
    tools,
    [...inside, ip, '-batch', '-'],
    [
      'link set lo up',
      `addr add ${wire.target4}/30 dev target0`,
      ...(families.device ? [`addr add ${wire.target6}/64 dev target0 nodad`] : []),
      'link set target0 up',
      `route add default via ${wire.host4}`,
    ].join('\n'),
  )
  return target
}

async function mustRun(
  { system }: StageTools,
  argv: readonly [string, ...string[]],
  input: string,
): Promise<string> {
  const { code, stdout, stderr } = await system.run(argv, { input })
  if (code === 0) return stdout
  throw new JailError('STATE', `the battery cannot be set up: ${stderr.trim().slice(0, 200)}`, {
    hint: 'is another `agentjail verify` running?',
  })
}

async function ask(target: ChildProcess): Promise<string> {
  const answer = once(target, 'message')
  target.send('report')
  const [{ seen }] = (await answer) as [{ seen: string }]
  return seen
}

/** What no program in the target can see: the kernel's own counts there (/proc/PID/net/snmp, snmp6: proc(5)). */
async function readCounters(
  { system }: StageTools,
  target: ChildProcess,
): Promise<Witness['counters']> {
  const read = async (file: string): Promise<string> =>
    (await system.readFile(`/proc/${String(target.pid)}/net/${file}`)) ?? ''
  const [v4, v6] = [await read('snmp'), await read('snmp6')]
  const four = (group: string, name: string): number => {
    const [names, values] = [...v4.matchAll(new RegExp(`^${group}: (.*)$`, 'gm'))].map(([, line]) =>
      (line ?? '').split(' '),
    )
    return Number(values?.[names?.indexOf(name) ?? -1] ?? 0)
  }
  const six = (name: string): number =>
    Number(new RegExp(`^${name}\\s+(\\d+)$`, 'm').exec(v6)?.[1] ?? 0)
  const lite = ['InDatagrams', 'NoPorts', 'InErrors']
  const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)
  return {
    icmp: four('Icmp', 'InEchos'),
    icmpv6: six('Icmp6InEchos'),
    udpLite: sum(lite.flatMap((name) => [four('UdpLite', name), six(`UdpLite6${name}`)])),
  }
}

/** A System V message queue that anyone may find. */
async function openQueue(tools: StageTools, undo: (() => unknown)[]): Promise<number> {
  const key = 0x616a0000 + (process.pid & 0xffff)
  const make = 'my $id = msgget($ARGV[0], 01666); defined $id or die "$!\\n"; print $id'
  const id = await mustRun(tools, [tools.perl, '-e', make, String(key)], '')
  undo.push(() => tools.system.run([tools.perl, '-e', 'msgctl($ARGV[0], 0, 0)', id]))
  return key
}
