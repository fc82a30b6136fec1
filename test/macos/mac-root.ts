/**
 * agentjail's own command line on a modelled Mac: a root directory whose programs of macOS are the model's, real files,
 * real processes, the real gate. The model's state lives here, where a test looks at it and does what other tools do.
 * Needs root, in namespaces of its own: the machine's files, accounts and network stay as they are.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Profile } from './model/sbpl.js'
import { answer, freshMac, type Answer, type MacState } from './model/state.js'
import { places, runTool } from './model/tools.js'
import { traffic as judge, type Sent } from './model/traffic.js'

const repository = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '')
const program = '/srv/repository/dist/bin/agentjail.cjs'
/** The machine's own do the same: agentjail asks them what Linux's can answer, too. */
const real = new Set([
  '/usr/bin/perl',
  '/bin/ls',
  '/bin/ps',
  '/usr/bin/id',
  '/usr/bin/sandbox-exec',
])
/** Milliseconds: bounds a hang on a busy machine, judges no speed. */
const patience = 240_000

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export class MacRoot {
  readonly state: MacState = freshMac()
  /** Of agentjail, within. */
  readonly program = program
  /** Told after each command that macOS was given. */
  onCommand: (() => void) | undefined
  /** A command takes effect, and ends, when this has settled. */
  beforeCommand: ((argv: readonly string[]) => Promise<void> | undefined) | undefined
  readonly #dir: string
  readonly #server: Server
  readonly #holder: ChildProcess
  /** Device -> those that read it. */
  readonly #captures = new Map<string, Set<Socket>>()
  /** Port of this machine -> uid that listens there. */
  readonly #owners = new Map<number, number>()
  /** Whether what programs do with sockets and files is judged: see `hook.ts`. */
  readonly #traffic: boolean

  private constructor(dir: string, traffic: boolean) {
    this.#dir = dir
    this.#traffic = traffic
    if (traffic) writeFileSync(join(dir, 'socket', 'traffic'), '')
    this.#server = createServer({ allowHalfOpen: true }, (socket) => {
      let asked = ''
      socket.setEncoding('utf8').on('data', (text: string) => (asked += text))
      socket.on('error', () => undefined)
      socket.on('end', () => {
        const at = asked.indexOf('\0\0')
        const argv = asked.slice(0, at).split('\0')
        const settled = this.beforeCommand?.(argv)
        const go = (): void => {
          this.#reply(socket, argv, asked.slice(at + 2))
        }
        if (settled === undefined) go()
        else void settled.then(go)
      })
    })
    const fakes = [...places.values(), '/usr/bin/sw_vers'].filter((path) => !real.has(path))
    const argv = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--', '/usr/bin/perl']
    const script = join(repository, 'test/macos/model/root.pl')
    const args = [...argv, script, join(dir, 'root'), join(dir, 'socket'), repository, ...fakes]
    // Whatever becomes of the test, the namespaces and all that runs in them end with it.
    this.#holder = spawn('/usr/bin/setpriv', ['--pdeathsig', 'KILL', '/usr/bin/unshare', ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
  }

  static async open({ traffic = false } = {}): Promise<MacRoot> {
    const dir = mkdtempSync(join(tmpdir(), 'agentjail-macroot-'))
    for (const name of ['root', 'socket']) mkdirSync(join(dir, name), { mode: 0o755 })
    const mac = new MacRoot(dir, traffic)
    mac.#server.listen({
      path: join(dir, 'socket', 'socket'),
      readableAll: true,
      writableAll: true,
    })
    if (mac.#holder.stdout !== null) await once(mac.#holder.stdout, 'data')
    return mac
  }

  close(): void {
    this.#holder.kill('SIGKILL')
    this.#server.close()
    rmSync(this.#dir, { recursive: true })
  }

  /** Any program, as root, within. */
  start(argv: readonly string[], env: Readonly<Record<string, string>> = {}): ChildProcess {
    // unshare forks: the namespaces are those of its child.
    const pid = String(this.#holder.pid)
    const inside = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
    const enter = ['--target', inside, '--mount', '--net', '--pid', '--wdns=/Users/Shared', '--']
    return spawn('/usr/bin/nsenter', [...enter, ...argv], {
      env: {
        PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin',
        SUDO_UID: '501',
        SUDO_GID: '20',
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  }

  async run(argv: readonly string[]): Promise<Ended> {
    return await ended(this.start(argv))
  }

  /** `agentjail ARGS`. */
  async jail(...args: string[]): Promise<Ended> {
    return await ended(this.startJail(...args))
  }

  startJail(...args: string[]): ChildProcess {
    const hook = this.#traffic ? ['--import', '/srv/repository/dist/test/macos/model/hook.js'] : []
    const node = [process.execPath, '--require', '/srv/darwin.cjs', ...hook]
    return this.start([...node, program, ...args])
  }

  /** A signal to what was started, which nsenter forked; nothing where it has ended. */
  killInner(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): void {
    const parent = String(child.pid)
    try {
      const [pid = ''] = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8').split(' ')
      process.kill(pid === '' ? (child.pid ?? 0) : Number(pid), signal)
    } catch {
      child.kill(signal)
    }
  }

  async write(path: string, text: string): Promise<void> {
    const script = 'open my $f, ">", shift or die "$!\\n"; print $f pack("H*", shift); close $f'
    const hex = Buffer.from(text).toString('hex')
    const { code, stderr } = await this.run(['/usr/bin/perl', '-e', script, path, hex])
    if (code !== 0) throw new Error(stderr)
  }

  #reply(socket: Socket, argv: readonly string[], input: string): void {
    const { code, stdout, stderr } = this.#answer(argv, input)
    this.onCommand?.()
    const text = `${String(code)} ${String(stdout.length)}\n${stdout}${stderr}`
    if (argv[0] !== '/usr/sbin/tcpdump' || code !== 0) socket.end(text)
    else {
      socket.write(text)
      this.#listen(argv[argv.indexOf('-i') + 1] ?? '', socket)
    }
  }

  /** A tcpdump that runs. */
  #listen(device: string, socket: Socket): void {
    const captures = this.#captures.get(device) ?? new Set()
    this.#captures.set(device, captures.add(socket))
    socket.on('close', () => captures.delete(socket))
  }

  #answer(argv: readonly string[], input: string): Answer {
    const [name = '', ...args] = argv
    if (name === '/sbin/ifconfig' && args[1] === 'destroy')
      for (const socket of this.#captures.get(args[0] ?? '') ?? []) socket.end()
    if (name === 'model-listen') this.#owners.set(Number(args[0]), Number(args[1]))
    if (name === 'model-packet') {
      const sent = JSON.parse(args[0] ?? '') as Sent
      const { seen, ...told } = judge(this.state, sent, this.#owners)
      for (const [device, line] of seen)
        for (const socket of this.#captures.get(device) ?? []) socket.write(`${line}\n`)
      return answer(0, JSON.stringify(told))
    }
    if (name.startsWith('model-')) return answer()
    if (name === '/usr/bin/sw_vers') return answer(0, '15.4\n')
    if (name === '/bin/launchctl' && args[0] === 'asuser') return this.#launch(args.slice(1))
    if (name === '/bin/launchctl' && args[0] === 'bootstrap') this.#look(args[2] ?? '')
    if (name === '/sbin/pfctl' && args.includes('-f'))
      this.#look(args[args.indexOf('-f') + 1] ?? '')
    return runTool(this.state, argv, input)
  }

  /** What a program of macOS reads itself: as it is now, or not there. */
  #look(path: string): void {
    const pid = String(this.#holder.pid)
    const inside = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
    Reflect.deleteProperty(this.state.files, path)
    try {
      // A link within would be followed from this root: /var/run is one.
      const place = path.replace(/^\/var\/run\//, '/run/')
      const text = readFileSync(`/proc/${inside}/root${place}`, 'utf8')
      this.state.files[path] = { kind: 'file', text, mode: 0o644, uid: 0, gid: 0 }
    } catch {
      // Whoever asked is told.
    }
  }

  #launch([uid = '', sudo, ...rest]: readonly string[]): Answer {
    const at = rest.indexOf('--')
    const options = rest.slice(0, at)
    const name = options[options.indexOf('-u') + 1] ?? ''
    const user = this.state.users[name]
    if (sudo !== '/usr/bin/sudo' || at === -1 || !options.includes('-n'))
      return answer(1, '', 'sudo: a password is required\n')
    if (user === undefined) return answer(1, '', `sudo: unknown user ${name}\n`)
    if (Number(user['UniqueID']?.[0]) >>> 0 !== Number(uid))
      return answer(1, '', `launchctl: no domain of ${uid}\n`)
    const [sandbox, p, profile = ''] = rest.slice(at + 1)
    const told = answer(0, `${uid}\n${name}\n${user['NFSHomeDirectory']?.[0] ?? '/'}\n`)
    // Only `verify --without profile`.
    if (sandbox === process.execPath && this.#traffic) return told
    if (sandbox !== '/usr/bin/sandbox-exec' || p !== '-p') return answer(64, '', 'usage\n')
    try {
      new Profile(profile)
    } catch (error) {
      return answer(65, '', `sandbox-exec: ${String(error)}\n`)
    }
    return told
  }
}

export async function ended(child: ChildProcess): Promise<Ended> {
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const timer = setTimeout(() => child.kill('SIGKILL'), patience)
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  clearTimeout(timer)
  return { code, signal, stdout, stderr }
}

/** Resolves when `isTrue` does; throws after minutes. */
export async function until(what: string, isTrue: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + patience
  while (!(await isTrue())) {
    if (Date.now() > end) throw new Error(`never: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
