/** The modelled Mac as a host of the shared scenarios. Judge of what gets out: pf's evaluator, after every command. */
import type { Test } from 'tap'
import type { Ended, Host, Started } from '../scenarios/host.js'
import { play, type Flow } from './flows.js'
import { ended, MacRoot, until } from './mac-root.js'
import { worldOf } from './model/world.js'
import { reserved } from './rulesets.js'

const policyPath = '/etc/agentjail/policies/faults.yaml'
const policy = `version: 1
name: faults
network:
  allow: [plain.example]
  cidrs: [{ cidr: 198.51.100.7/32, ports: [5432] }]
`
const anchor = 'com.apple/agentjail'
const uids = Array.from({ length: 8 }, (_, at) => reserved.first + at)
const targets = [
  ['203.0.113.66', 443],
  ['203.0.113.66', 5432],
  ['198.51.100.7', 443],
  ['2001:db8::66', 53],
] as const
const granted = { kind: 'connect', from: '192.168.1.10', to: '198.51.100.7', port: 5432 } as const
const pfctl = (words: string, input = '') => [
  ...['/bin/sh', '-c'],
  `${input === '' ? '' : `echo '${input}' | `}/sbin/pfctl ${words}`,
]

export interface MacHost extends Host {
  readonly mac: MacRoot
  /** How often pf was judged, and how often what is granted was open then. */
  readonly judged: { commands: number; open: number }
}

/** Whoever opens it closes its `mac`. */
export async function openMacHost(): Promise<MacHost> {
  const mac = await MacRoot.open()
  await mac.run(['/bin/mkdir', '-p', '/etc/agentjail/policies', '/usr/local/bin'])
  await mac.write(policyPath, policy)
  const words = [process.execPath, '--require', '/srv/darwin.cjs', mac.program].join(' ')
  await mac.write('/usr/local/bin/agentjail', `#!/bin/sh\nexec ${words} "$@"\n`)
  await mac.run(['/usr/bin/perl', '-e', 'chmod 0755, "/usr/local/bin/agentjail" or die'])
  const prefix = ['run', '-q', '--policy', policyPath] as const
  await mac.jail('setup')
  const ready = await mac.jail(...prefix, '--', 'true')
  if (ready.code !== 0) throw new Error(ready.stderr)
  const before = await leftOf(mac)
  const seen = new Set<string>()
  const judged = { commands: 0, open: 0 }
  mac.onCommand = () => {
    judged.commands++
    for (const client of uids) for (const one of openings(mac, client)) seen.add(one)
    const world = worldOf(mac.state)
    if (uids.some((client) => play(world, { ...granted, client }) === 'passes')) judged.open++
  }
  const count = async (is: (uid: number) => boolean): Promise<number> =>
    (await mac.run(['/bin/ps', '-A', '-o', 'uid='])).stdout
      .split('\n')
      .filter((line) => line.trim() !== '' && is(Number(line))).length
  const uid = (): Promise<number> =>
    Promise.resolve(Number(mac.state.users['aj-faults']?.['UniqueID']?.[0]))
  return {
    mac,
    judged,
    prefix,
    stateDir: '/var/run/agentjail',
    logDir: '/var/log/agentjail',
    sharedState: ['/var/run/agentjail/pf.json'],
    hasSecondLine: false,
    restless: ['/bin/sh', '-c', 'echo started; while :; do sleep 1; done'],
    damages: [
      ['everything of ours flushed', pfctl(`-a ${anchor} -F all`)],
      ['our rules flushed', pfctl(`-a ${anchor} -F rules`)],
      ['nothing loaded', pfctl(`-a ${anchor} -f - </dev/null`)],
      ['rules of another loaded', pfctl(`-a ${anchor} -f -`, 'pass quick all no state')],
      ['pf switched off', pfctl('-d')],
      ['pf switched off and on', pfctl('-d && /sbin/pfctl -e')],
    ],
    agentjail: (...args) => mac.jail(...args),
    start: (...args) => started(mac, args),
    run: (...argv) => mac.run(argv),
    write: (path, text) => mac.write(path, text),
    uid,
    jailed: () => count((one) => one >= reserved.first && one <= reserved.last),
    gates: () => count((one) => one === 450),
    granted: async () => play(worldOf(mac.state), { ...granted, client: await uid() }) === 'passes',
    mayConnect: async (name) => {
      const curl = `curl -s -m 20 -o /dev/null -w '%{http_connect}' https://${name}/`
      const { stdout } = await mac.jail('run', '--join', 'faults', '--', 'sh', '-c', curl)
      return stdout !== '403'
    },
    leaks: (client) => Promise.resolve(openings(mac, client).length > 0),
    leaked: () => {
      const since = [...seen]
      seen.clear()
      return Promise.resolve(since)
    },
    left: async () => {
      const now = await leftOf(mac)
      return Object.fromEntries(
        Object.entries(now).filter(
          ([kind, value]) =>
            JSON.stringify(value) !== JSON.stringify(before[kind as keyof typeof before]),
        ),
      )
    },
  }
}

/** Flows of this user that pf lets through now, and no policy grants. */
function openings(mac: MacRoot, client: number): string[] {
  const world = worldOf(mac.state)
  return targets.flatMap(([to, port]) =>
    (['connect', 'send'] as const).flatMap((kind) => {
      const from = to.includes(':') ? '2001:db8:f::10' : '192.168.1.10'
      const flow: Flow = { kind, client, from, to, port }
      return play({ ...world, states: [] }, flow) === 'passes' ? [JSON.stringify(flow)] : []
    }),
  )
}

function started(mac: MacRoot, args: readonly string[]): Started {
  const child = mac.startJail(...args)
  const said = { out: '', err: '' }
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (said.out += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (said.err += text))
  // Killed, it may leave a command that holds its output open until somebody clears it.
  const killed = new Promise<Ended>((resolve) => {
    child.on('exit', (code, signal) => {
      if (signal === 'SIGKILL') resolve({ code, signal, stdout: said.out, stderr: said.err })
    })
  })
  const end = Promise.race([ended(child), killed])
  return {
    kill: (signal) => {
      mac.killInner(child, signal)
    },
    stdout: () => said.out,
    stderr: () => said.err,
    until: (pattern) =>
      until(String(pattern), () => {
        if (pattern.test(said.out) || pattern.test(said.err)) return true
        if (child.exitCode !== null || child.signalCode !== null)
          throw new Error(`it ended: ${said.out}${said.err}`)
        return false
      }),
    ended: end,
  }
}

async function leftOf(mac: MacRoot) {
  const { pf, acls, interfaces, users, groups, launchd } = mac.state
  const find = await mac.run([
    ...['/usr/bin/find', '/var/run/agentjail', '/var/run/agentjail-ca', '-type', 'f'],
    ...['-not', '-name', 'last-uid', '-not', '-name', 'pf.json'],
  ])
  const ps = await mac.run(['/bin/ps', '-A', '-o', 'uid=', '-o', 'args='])
  const others = (line: string): boolean => /^\s*(4[5-9]\d|19\d{8}) /.test(line)
  return {
    rules: pf.anchors[anchor],
    tables: { ...pf.tables },
    enabled: pf.enabled,
    acls: Object.values(acls).flat(),
    interfaces: [...interfaces],
    accounts: [Object.keys(users), Object.keys(groups)],
    launchd: Object.keys(launchd),
    files: find.stdout,
    processes: ps.stdout.split('\n').filter(others),
  }
}

export type Scenario = (t: Test, host: MacHost) => Promise<void>
