/**
 * The modelled Mac as one executable: `node main.js STATE-FILE /sbin/pfctl -sr`. Its state is a JSON file, changed
 * under a lock. A launch (`launchctl asuser UID sudo … sandbox-exec -p PROFILE COMMAND`) really runs the command,
 * as that uid, with the variables that sudo would keep.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, rmdirSync, writeFileSync } from 'node:fs'
import { Profile } from './sbpl.js'
import { freshMac, type MacState } from './state.js'
import { runTool } from './tools.js'

const [, , file = '', ...argv] = process.argv

if (argv[0] === '/bin/launchctl' && argv[1] === 'asuser') launch(argv.slice(2))
else if (argv[0] === '/usr/bin/perl') becomeTool(argv)
else {
  const from = argv.includes('-f') ? argv[argv.indexOf('-f') + 1] : undefined
  const input = from === '-' ? readFileSync(0, 'utf8') : ''
  const { code, stdout, stderr } = change((state) => {
    if (from?.startsWith('/') === true && existsSync(from)) {
      const text = readFileSync(from, 'utf8')
      state.files[from] = { kind: 'file', text, mode: 0o600, uid: 0, gid: 0 }
    }
    const listed = argv[0] === '/bin/ls' ? argv.at(-1) : undefined
    if (listed !== undefined && existsSync(listed))
      state.files[listed] = { kind: 'directory', text: '', mode: 0o755, uid: 0, gid: 0 }
    return runTool(state, argv, input)
  })
  process.stdout.write(stdout)
  process.stderr.write(stderr)
  process.exitCode = code
}

/** The real perl with the real script; what it becomes is the model once more. */
function becomeTool([
  perl = '',
  e = '',
  script = '',
  dashes = '',
  journal = '',
  ...tool
]: string[]): void {
  const args = [e, script, dashes, journal, process.execPath, process.argv[1] ?? '', file, ...tool]
  process.exitCode = spawnSync(perl, args, { stdio: 'inherit' }).status ?? 1
}

function change<T>(work: (state: MacState) => T): T {
  const lock = `${file}.lock`
  for (let attempt = 0; ; attempt++) {
    try {
      mkdirSync(lock)
      break
    } catch (error) {
      if (attempt > 2_000) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
    }
  }
  try {
    const state = existsSync(file)
      ? (JSON.parse(readFileSync(file, 'utf8')) as MacState)
      : freshMac()
    const result = work(state)
    writeFileSync(`${file}.tmp`, JSON.stringify(state))
    renameSync(`${file}.tmp`, file)
    return result
  } finally {
    rmdirSync(lock)
  }
}

function launch([uid = '', sudo, ...rest]: string[]): void {
  const fail = (code: number, text: string): never => {
    process.stderr.write(`${text}\n`)
    process.exit(code)
  }
  const at = rest.indexOf('--')
  const options = rest.slice(0, at)
  const [sandbox, p, profile = '', program = '', ...args] = rest.slice(at + 1)
  const name = options[options.indexOf('-u') + 1] ?? ''
  const user = change((state) => state.users[name])
  if (sudo !== '/usr/bin/sudo' || at === -1 || !options.includes('-n'))
    fail(1, 'sudo: a password is required')
  if (user === undefined) return fail(1, `sudo: unknown user ${name}`)
  if (user['UniqueID']?.[0] !== uid) fail(1, `launchctl: no domain of uid ${uid}`)
  if (sandbox !== '/usr/bin/sandbox-exec' || p !== '-p') fail(64, 'usage: sandbox-exec')
  try {
    new Profile(profile)
  } catch (error) {
    fail(65, `sandbox-exec: ${String(error)}`)
  }
  const kept =
    options
      .find((option) => option.startsWith('--preserve-env='))
      ?.split('=')[1]
      ?.split(',') ?? []
  const home = user['NFSHomeDirectory']?.[0] ?? '/'
  const env = {
    ...Object.fromEntries(kept.map((key) => [key, process.env[key] ?? ''])),
    HOME: home,
    USER: name,
    LOGNAME: name,
    SUDO_USER: 'root',
  }
  const id = Number(uid)
  const child = spawn(
    '/usr/bin/setpriv',
    [`--reuid=${String(id)}`, `--regid=${String(id)}`, '--clear-groups', '--', program, ...args],
    { env, stdio: 'inherit' },
  )
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const)
    process.on(signal, () => child.kill(signal))
  child.on('close', (code, signal) => {
    if (signal === null) process.exit(code ?? 1)
    process.removeAllListeners(signal)
    process.kill(process.pid, signal)
  })
}
