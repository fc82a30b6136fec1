/**
 * The lab: "the internet" and "the host" in namespaces of their own, with a capture on the wire between.
 * Invariant: it touches nothing of the machine and leaves nothing on it, however the test ends.
 *
 * Needs root and, from Debian: unbound, tcpdump, iproute2, nftables, util-linux, openssl, git.
 */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { wire } from './addresses.js'
import { makeCa, subjectHash } from './ca.js'
import { Capture } from './capture.js'
import { unboundConf, Zone, type RecordType } from './dns.js'
import { prepareEtc } from './files.js'
import { firewall as chosen, listRules, prepareFirewall, type Firewall } from './firewall.js'
import { runOnHost, spawnOnHost, type Result, type RunOptions, type Spawned } from './host.js'
import { Internet } from './internet.js'
import {
  difference,
  listProcesses,
  takeState,
  type HostProcess,
  type Leftovers,
} from './leftovers.js'
import { spawnInternet, startSides, type Sides } from './namespaces.js'
import { agentjailPath, builtPath } from './paths.js'

export interface Lab {
  readonly sides: Sides
  readonly internet: Internet
  readonly capture: Capture
  readonly dns: {
    /** Replaces the records of a name and type, in force when it resolves; `ttl` in seconds. */
    set(name: string, type: RecordType, values: readonly string[], ttl?: number): Promise<void>
  }
  /** Runs to the end on the host; `input`, else empty, as standard input. */
  run(argv: readonly string[], options?: RunOptions): Promise<Result>
  spawn(argv: readonly string[], options?: RunOptions): Spawned
  /** `run`/`spawn` of the built agentjail. */
  agentjail(args: readonly string[], options?: RunOptions): Promise<Result>
  spawnAgentjail(args: readonly string[], options?: RunOptions): Spawned
  /** Reads and writes a file of the host. */
  readFile(path: string): string
  writeFile(path: string, text: string, mode?: number): void
  /** The host's whole ruleset, as its tools list it. */
  rules(): Promise<string>
  processes(): HostProcess[]
  processesOf(uid: number): HostProcess[]
  /** What is there that was not there at the start (or at the last `remember`). */
  leftovers(): Promise<Leftovers>
  /** Takes what is there now as the state to compare with. */
  remember(): Promise<void>
  /** Everything sent so far is in `capture` and `internet`. */
  sync(): Promise<void>
  close(): Promise<void>
}

const needed = ['/usr/sbin/unbound', '/usr/bin/tcpdump', '/usr/sbin/nft', '/usr/bin/openssl']
const packages = 'unbound tcpdump nftables openssl iproute2 bubblewrap git curl dnsutils sudo'

/** Starts a lab, with the firewall that the environment names unless told; `close` it in the test's teardown. Throws when a tool is missing. */
export const createLab = async (firewall: Firewall = chosen): Promise<Lab> => {
  const missing = needed.filter((path) => !existsSync(path))
  if (missing.length > 0) {
    throw new Error(`the lab needs ${missing.join(', ')}: apt-get install ${packages}`)
  }
  const sides = await startSides()
  try {
    return await furnish(sides, firewall)
  } catch (error) {
    await sides.end()
    throw error
  }
}

const directory = '/run/lab'

const furnish = async (sides: Sides, firewall: Firewall): Promise<Lab> => {
  const outside = `/proc/${sides.internet}/root${directory}`
  const zone = new Zone()
  writeFileSync(`${outside}/unbound.conf`, unboundConf(directory))
  writeFileSync(`${outside}/zone`, zone.text())
  const helpers: ChildProcess[] = []
  const start = (argv: readonly string[], ready: RegExp, stdout: 'pipe' | 'ignore') => {
    const child = spawnInternet(sides, argv, ['ignore', stdout, 'pipe'])
    helpers.push(child)
    return says(child, ready).then(() => child)
  }
  const [tcpdump, internet] = await Promise.all([
    start(
      [
        ...['tcpdump', '-i', wire.internetLink, '-n', '-U', '--immediate-mode'],
        ...['-Z', 'root', '-B', '8192', '-s', '0', '-w', '-'],
      ],
      /listening on/,
      'pipe',
    ),
    makeCa(outside).then(async () => {
      const helper = spawnInternet(
        sides,
        [process.execPath, builtPath('internet/main.js')],
        ['ignore', 'inherit', 'inherit', 'ipc'],
      )
      helpers.push(helper)
      const [started, hash] = await Promise.all([Internet.start(helper), subjectHash(outside)])
      prepareEtc(sides, readFileSync(`${outside}/ca.pem`, 'utf8'), hash)
      return started
    }),
    start(['unbound', '-c', `${directory}/unbound.conf`], /start of service/, 'ignore'),
  ])
  const capture = new Capture(tcpdump, (text) => internet.call('mark', text))

  const run = (argv: readonly string[], options?: RunOptions) => runOnHost(sides, argv, options)
  const show = async (argv: readonly string[]) => {
    const { code, stdout, stderr } = await run(argv)
    if (code !== 0) throw new Error(`${argv.join(' ')}: ${stderr}`)
    return stdout
  }
  prepareFirewall(sides, firewall)
  const hostPath = (path: string) => `/proc/${sides.host}/root${path}`
  let before = await takeState(sides, firewall, show)
  await capture.clear()
  return {
    sides,
    internet,
    capture,
    run,
    spawn: (argv, options) => spawnOnHost(sides, argv, options),
    agentjail: (args, options) => run([process.execPath, agentjailPath, ...args], options),
    spawnAgentjail: (args, options) =>
      spawnOnHost(sides, [process.execPath, agentjailPath, ...args], options),
    dns: {
      set: async (name, type, values, ttl) => {
        writeFileSync(`${outside}/zone`, zone.set(name, type, values, ttl).text())
        const argv = ['unbound-control', '-c', `${directory}/unbound.conf`, 'auth_zone_reload', '.']
        const control = spawnInternet(sides, argv, ['ignore', 'ignore', 'inherit'])
        const [code] = (await once(control, 'exit')) as [number | null]
        if (code !== 0) throw new Error(`unbound did not take the record ${name} ${type}`)
      },
    },
    readFile: (path) => readFileSync(hostPath(path), 'utf8'),
    writeFile: (path, text, mode = 0o644) => {
      mkdirSync(hostPath(path.replace(/\/[^/]*$/, '')), { recursive: true })
      writeFileSync(hostPath(path), text, { mode })
    },
    rules: async () => (await listRules(sides, firewall, show)).join('\n'),
    processes: () => listProcesses(sides),
    processesOf: (uid) => listProcesses(sides).filter((p) => p.uid === uid),
    leftovers: async () => difference(before, await takeState(sides, firewall, show)),
    remember: async () => {
      before = await takeState(sides, firewall, show)
    },
    sync: async () => {
      await capture.sync()
      await internet.call('sync')
    },
    close: async () => {
      await sides.end()
      for (const helper of helpers) helper.kill('SIGKILL')
    },
  }
}

/** Resolves when the program's standard error says so; rejects with what it said when it ends first. */
const says = (child: ChildProcess, ready: RegExp) =>
  new Promise<void>((resolve, reject) => {
    let said = ''
    child.stderr?.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString()).slice(-4096)
      if (ready.test(said)) resolve()
    })
    child.on('error', reject)
    child.on('exit', () => reject(new Error(`${child.spawnargs.join(' ')} ended: ${said}`)))
  })
