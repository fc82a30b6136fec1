/**
 * Makes a fresh Debian or Ubuntu ready for the tests: their packages, and the dependencies of the example and of the
 * client programs. Fails loudly; nothing is skipped because something is missing.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
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
    // `NAME unless PATH`: for a program that is often installed by other means.
    .map((line) => line.split(' unless '))
    .filter(([name = '', path]) => name !== '' && (path === undefined || !existsSync(path)))
    .map(([name = '']) => name)
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
for (const directory of ['examples/bot', 'test/clients']) {
  const path = join(root, directory)
  if (existsSync(join(path, 'package.json'))) run('npm', ['ci', '--no-audit', '--no-fund'], path)
}
