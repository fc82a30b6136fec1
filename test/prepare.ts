/**
 * Makes a fresh Debian or Ubuntu ready for the tests: their packages, and the dependencies of the example and of the
 * client programs. Fails loudly; nothing is skipped because something is missing.
 */
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

function run(program: string, args: readonly string[], cwd = root): void {
  const done = spawnSync(program, args, {
    cwd,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    timeout: 15 * 60_000,
  })
  if (done.status !== 0) {
    process.stderr.write(`prepare: ${program} ${args.join(' ')} failed\n`)
    process.exit(1)
  }
}

function missingPackages(): string[] {
  const wanted = readFileSync(join(root, 'test/packages.txt'), 'utf8')
    .split('\n')
    .filter((name) => name !== '')
  const query = spawnSync(
    '/usr/bin/dpkg-query',
    ['-W', '-f', '${Package} ${db:Status-Status}\n', ...wanted],
    {
      encoding: 'utf8',
    },
  )
  const installed = new Set(
    query.stdout
      .split('\n')
      .filter((line) => line.endsWith(' installed'))
      .map((line) => line.split(' ', 1)[0]),
  )
  return wanted.filter((name) => !installed.has(name))
}

/**
 * docker's engine, unpacked and not installed: a package that is installed starts a daemon, which changes the machine's
 * firewall. The tests start theirs in the lab.
 */
function unpackEngine(): void {
  const place = join(root, 'test/engine')
  if (existsSync(place)) return
  const part = mkdtempSync(`${place}-`)
  run('/usr/bin/apt-get', ['update', '-qq'])
  const sandbox = ['-o', 'APT::Sandbox::User=root', '-qq']
  run('/usr/bin/apt-get', [...sandbox, 'download', 'docker.io', 'containerd', 'runc'], part)
  for (const archive of readdirSync(part)) run('/usr/bin/dpkg-deb', ['-x', archive, 'files'], part)
  mkdirSync(join(part, 'bin'))
  const programs = [
    'docker',
    'dockerd',
    'docker-proxy',
    'containerd',
    'containerd-shim-runc-v2',
    'runc',
  ]
  for (const program of programs) {
    const [found] = ['usr/sbin', 'usr/bin']
      .map((dir) => join(part, 'files', dir, program))
      .filter((path) => existsSync(path))
    if (found !== undefined) renameSync(found, join(part, 'bin', program))
  }
  renameSync(join(part, 'bin'), place)
  rmSync(part, { recursive: true })
}

if (process.getuid?.() !== 0) {
  process.stderr.write(
    'prepare: the tests need root: they make network namespaces and accounts of their own\n',
  )
  process.exit(1)
}
if (!existsSync('/usr/bin/apt-get')) {
  process.stderr.write(
    'prepare: the tests install their tools with apt-get: use Debian or Ubuntu\n',
  )
  process.exit(1)
}
const missing = missingPackages()
if (missing.length > 0) {
  run('/usr/bin/apt-get', ['update', '-qq'])
  run('/usr/bin/apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing])
}
unpackEngine()
for (const directory of ['examples/bot', 'test/clients', 'test/newer-node']) {
  const path = join(root, directory)
  if (existsSync(join(path, 'package.json'))) run('npm', ['ci', '--no-audit', '--no-fund'], path)
}
