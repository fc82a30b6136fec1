/**
 * Many jails on one host: start time and memory as they grow, and large policies.
 * The jails are real up to what the machine's cores bear; beyond, entries of the registry and accounts stand for them,
 * which is all that a further start sees of the others in namespace isolation.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createLab, type Lab } from '../test/lab/lab.js'
import { agentjailPath, root } from '../test/lab/paths.js'
import { Grants } from '../lib/gate/grants.js'
import { gatePolicy } from '../lib/plan/compile.js'
import { policyFromJson, policyToJson } from '../lib/policy/json.js'
import { loadPolicies } from '../lib/policy/loader.js'
import { labPlace, type Place } from './places.js'
import { digits, median } from './statistics.js'
import { linePlot } from './svg.js'
import type { Options, Part } from './types.js'

/** Kilobytes; 0 for a process that has ended. */
function pss(lab: Lab, pid: number): number {
  try {
    const text = readFileSync(`/proc/${lab.sides.host}/root/proc/${pid}/smaps_rollup`, 'utf8')
    return Number(/^Pss:\s+(\d+)/m.exec(text)?.[1] ?? 0)
  } catch {
    return 0
  }
}

const own = /agentjail|gate|nft|bwrap|perl/

function memory(lab: Lab): number {
  return lab
    .processes()
    .filter(({ command }) => own.test(command) && !command.includes('timer.js'))
    .reduce((sum, { pid }) => sum + pss(lab, pid), 0)
}

async function startTime(place: Place, repeat: number, policy = 'openai'): Promise<number> {
  const times: number[] = []
  for (let n = 0; n < repeat; n++) {
    const { ms, code, stderr } = await place.time(
      [
        process.execPath,
        agentjailPath,
        ...['run', '-p', policy, '-q', '--name', 'probe', '--', '/usr/bin/true'],
      ],
      '/srv/bench',
    )
    if (code !== 0) throw new Error(`the probe failed: ${stderr}`)
    times.push(ms)
  }
  return median(times)
}

async function addJails(lab: Lab, from: number, to: number): Promise<void> {
  for (let n = from; n < to; n++) {
    lab.spawnAgentjail(
      ['run', '-p', 'openai', '-q', '--name', `many-${n}`, '--', '/bin/sleep', '1000'],
      { cwd: '/srv/bench', timeout: 900_000 },
    )
    // Not more than a few at once: two cores.
    if (n % 4 === 3 || n === to - 1) await waitFor(lab, n + 1)
  }
}

async function waitFor(lab: Lab, count: number, sleep = '/bin/sleep 1000'): Promise<void> {
  for (let tries = 0; tries < 3_000; tries++) {
    if (lab.processes().filter(({ command }) => command === sleep).length >= count) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Error(`${count} jails do not come up`)
}

/** Entries owned by a living jail's warden, and accounts, as that many more jails would have. */
async function standIns(lab: Lab, from: number, to: number): Promise<void> {
  const entry = JSON.parse(lab.readFile('/run/agentjail/jails/many-0.json')) as { uid: number }
  let [passwd, group] = [lab.readFile('/etc/passwd'), lab.readFile('/etc/group')]
  for (let n = from; n < to; n++) {
    const uid = entry.uid + 10_000 + n
    lab.writeFile(
      `/run/agentjail/jails/many-${n}.json`,
      `${JSON.stringify({ ...entry, name: `many-${n}`, user: `aj-many-${n}`, uid, gid: uid })}\n`,
      0o600,
    )
    passwd += `aj-many-${n}:x:${uid}:${uid}:agentjail many-${n}:/var/lib/agentjail/home/many-${n}:/usr/sbin/nologin\n`
    group += `aj-many-${n}:x:${uid}:\n`
  }
  lab.writeFile('/etc/passwd', passwd)
  lab.writeFile('/etc/group', group)
}

/** A policy of so many names, as YAML. */
function namesPolicy(names: number): string {
  const hosts = Array.from(
    { length: names },
    (_, n) => `    - host${n}.example${n % 97}.com\n`,
  ).join('')
  return `version: 1\nname: large\nnetwork:\n  allow:\n${hosts}`
}

interface ByNames {
  readonly names: number
  readonly start: number
  readonly memory: number
}

/** Start, and memory of one jail, by the number of names in its policy. */
async function growByNames(lab: Lab, place: Place, counts: readonly number[]): Promise<ByNames[]> {
  const rows: ByNames[] = []
  for (const names of counts) {
    const path = `/etc/agentjail-bench-${names}.yaml`
    lab.writeFile(path, namesPolicy(names))
    const start = await startTime(place, 3, path)
    const before = memory(lab)
    const jail = lab.spawnAgentjail(['run', '-p', path, '-q', '--', '/bin/sleep', '1001'], {
      cwd: '/srv/bench',
      timeout: 60_000,
    })
    await waitFor(lab, 1, '/bin/sleep 1001')
    // Its gate has read the policy by then.
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    rows.push({ names, start, memory: (memory(lab) - before) / 1024 })
    jail.kill('SIGTERM')
    await jail.ended
  }
  return rows
}

async function compileTimes(names: number): Promise<{ yaml: number; compiled: number }> {
  const dir = join(root, 'dist/bench/made')
  mkdirSync(dir, { recursive: true })
  const path = join(dir, 'large.yaml')
  writeFileSync(path, namesPolicy(names))
  const [yaml, compiled]: [number[], number[]] = [[], []]
  for (let n = 0; n < 5; n++) {
    const began = performance.now()
    const policy = await loadPolicies([path], { cwd: '/', callerUid: 0 })
    const text = policyToJson(policy)
    const read = performance.now()
    const again = policyFromJson(text) ?? policy
    new Grants(gatePolicy(again, []), [])
    yaml.push(read - began)
    compiled.push(performance.now() - read)
  }
  return { yaml: median(yaml), compiled: median(compiled) }
}

export async function scale({ quick }: Options): Promise<Part> {
  const steps = quick ? [0, 4] : [0, 10, 30]
  const repeat = quick ? 3 : 15
  const most = steps.at(-1) ?? 0
  const lab = await createLab()
  const place = labPlace(lab)
  const starts: [number, number][] = []
  const memories: [number, number][] = []
  const compiles: [number, number][] = []
  let byNames: ByNames[] = []
  let large = { yaml: NaN, compiled: NaN }
  try {
    await lab.run(['mkdir', '-p', '/srv/bench'])
    await startTime(place, 2)
    byNames = await growByNames(lab, place, quick ? [1, 100] : [1, 100, 1000, 10_000])
    const base = memory(lab)
    let running = 0
    for (const step of steps) {
      await addJails(lab, running, step)
      running = step
      starts.push([step, await startTime(place, repeat)])
      if (step > 0) memories.push([step, (memory(lab) - base) / 1024 / step])
    }
    let entries = most
    for (const count of quick ? [1000] : [100, 300, 1000]) {
      await standIns(lab, entries, count)
      entries = count
      starts.push([count, await startTime(place, repeat)])
    }
    for (const names of quick ? [1000] : [100, 1000, 10_000]) {
      large = await compileTimes(names)
      compiles.push([names, large.yaml + large.compiled])
    }
  } finally {
    place.end()
    await lab.close()
  }
  const [first, last] = [starts[0]?.[1] ?? NaN, starts.at(-1)?.[1] ?? NaN]
  const eachMB = memories.at(-1)?.[1]
  return {
    title: 'Scale',
    bars: [
      {
        text: `start with 1,000 jails (${most} of them running), over the first's`,
        ...{ figure: last / first, limit: 1.2, unit: 'x', sense: 'at most' },
      },
      {
        text: `memory a jail, proportional set size of all its agentjail processes, ${most} running`,
        ...{ figure: eachMB, limit: 50, unit: 'MB', sense: 'at most' },
      },
      {
        text: `a policy of ${quick ? '1,000' : '10,000'} names, from YAML to what the gate matches with`,
        ...{ figure: large.yaml + large.compiled, limit: 100, unit: 'ms', sense: 'at most' },
      },
      {
        text: `the same, compiled before (as the build does for bundled policies)`,
        ...{ figure: large.compiled, limit: 100, unit: 'ms', sense: 'at most' },
      },
    ],
    tables: [
      {
        title: 'Start of `true` while others run, ms; memory of each running jail',
        head: ['jails', 'start', 'MB a jail'],
        rows: starts.map(([count, ms]) => [
          String(count),
          digits(ms),
          digits(memories.find(([at]) => at === count)?.[1]),
        ]),
      },
      {
        title:
          'By the names of its policy, read from YAML: start of `true`, ms; memory of one jail, MB',
        head: ['names', 'start', 'MB'],
        rows: byNames.map(({ names, ...row }) => [
          ...[String(names), digits(row.start), digits(row.memory)],
        ]),
      },
    ],
    plots: [
      {
        name: 'start-by-jails',
        svg: linePlot('Start of `true` while others run', 'jails', 'ms', [
          { name: 'start', points: starts.map(([at, ms]) => [Math.max(at, 1), ms] as const) },
        ]),
      },
      {
        name: 'memory-by-jails',
        svg: linePlot('Memory of each jail (PSS of its agentjail processes)', 'jails', 'MB', [
          { name: 'MB a jail', points: memories },
        ]),
      },
      {
        name: 'start-by-names',
        svg: linePlot('Start of `true` by the names of its policy', 'names', 'ms', [
          { name: 'start', points: byNames.map(({ names, start }) => [names, start] as const) },
        ]),
      },
      {
        name: 'memory-by-names',
        svg: linePlot('Memory of a jail by the names of its policy', 'names', 'MB', [
          { name: 'MB', points: byNames.map(({ names, memory }) => [names, memory] as const) },
        ]),
      },
      {
        name: 'policy-by-names',
        svg: linePlot('Policy from YAML to matcher', 'names', 'ms', [
          { name: 'ms', points: compiles },
        ]),
      },
    ],
    missing: [],
    notes: [],
    raw: { starts, memories, byNames, compiles, large },
  }
}
