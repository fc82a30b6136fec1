/**
 * The fork server: its children are what spawned ones would be, and end with it. Judges: /proc, the kernel's own tables.
 */
import { spawn, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { SeenDeny } from '../lib/backend/nftables/seen-deny.js'
import { fenceArgv } from '../lib/launch/fence-script.js'
import { ForkServer } from '../lib/launch/fork-server.js'
import { realSystem } from '../lib/system/real.js'
import { parseMachine } from '../lib/system/syscall-numbers.js'
import { findTools } from '../lib/system/tools.js'
import type { System } from '../lib/system/types.js'
import { until } from './launch-support.js'

const tools = findTools(['perl', 'nft', 'unshare', 'setpriv'])
const perl = tools.get('perl')
const start = (t: { teardown(work: () => void): void }): ForkServer => {
  const server = ForkServer.start(perl)
  if (server === undefined) throw new Error('no server')
  t.teardown(() => server.close())
  return server
}
const statusOf = (pid: number, field: string): string | undefined => {
  try {
    return new RegExp(`^${field}:\\s+(.*)$`, 'm').exec(
      readFileSync(`/proc/${pid}/status`, 'utf8'),
    )?.[1]
  } catch {
    return undefined
  }
}

t.test('a session', async (t) => {
  const server = start(t)
  const system = server.over(realSystem())
  const what = `$| = 1; print join(' ', getppid, getpgrp == $$ ? 'own' : 'shared', map "$_=$ENV{$_}", sort keys %ENV), "\\n";
    opendir my $d, '/proc/self/fd'; my $at = fileno $d; print join(' ', sort grep /\\d/ && $_ != $at, readdir $d), "\\n"; <STDIN>; exit 3`
  const session = await system.openSoon?.([perl, '-e', what])
  if (session === undefined) throw new Error('no session')
  const lines: string[] = []
  session.onLine((line) => lines.push(line))
  await until('it has told', () => lines.length === 2)
  t.equal(
    lines[0],
    `${server.pid} own HOME=/dev/null LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin`,
    'parent, group, variables',
  )
  t.equal(lines[1], '0 1 2', 'descriptors')
  t.equal(statusOf(session.pid, 'PPid'), String(server.pid))
  t.equal(statusOf(session.pid, 'SigBlk'), '0000000000000000', 'no signal is blocked')
  const ended = new Promise((resolve) => session.onExit((code) => resolve(code)))
  await session.write('\n')
  t.equal(await ended, 3, 'its exit code')
  const second = await system.openSoon?.([perl, '-e', '$| = 1; print getppid, "\\n"; <STDIN>'])
  const parent = await new Promise((resolve) => second?.onLine(resolve))
  t.equal(parent, String(process.pid), 'a second one is spawned')
  await second?.end()
})

t.test('a text in perl, killed', async (t) => {
  const server = start(t)
  const child = server.fork('gate', {
    env: {},
    run: ['perl', 'open my $h, ">&=", 4; syswrite $h, "$ARGV[0]\\n"; sleep 60', 'a word'],
  })
  if (child === undefined) throw new Error('no child')
  const [told] = (await once(child.stdio[4] as NodeJS.ReadableStream, 'data')) as [Buffer]
  t.equal(told.toString(), 'a word\n')
  t.equal(server.fork('gate', { env: {}, run: ['exec', '/bin/true'] }), undefined, 'once')
  const ended = once(child, 'close')
  child.kill('SIGKILL')
  t.same(await ended, [null, 'SIGKILL'])
  t.notOk(child.kill('SIGKILL'), 'nobody is there to be killed')
})

t.test('a text in perl can close what it opens', async (t) => {
  const child = start(t).fork('gate', {
    env: {},
    run: [
      'perl',
      `open my $told, '>&=', 4; my @h = map { open my $h, '<', '/'; $h } 1 .. 20; close $_ for @h;
      opendir my $d, '/proc/self/fd'; syswrite $told, join(' ', sort grep /\\d/, readdir $d) . "\n"; sleep 60`,
    ],
  })
  const [told] = (await once(child?.stdio[4] as NodeJS.ReadableStream, 'data')) as [Buffer]
  t.equal(told.toString(), '0 1 2 3 4 5 6\n', 'none but its own, and that of the directory')
})

t.test('the outside of a fence holds nothing of what is inside', async (t) => {
  const name = 'agentjail-test-fence'
  const [program = '', ...argv] = [
    ...fenceArgv(perl, parseMachine(process.arch), process.pid, name),
    ...['/bin/sleep', '60'],
  ]
  // Several: what is inside may mount its /proc before the outside has looked at its own, or after.
  for (let n = 0; n < 8; n++) {
    const fence = spawn(program, argv, { stdio: ['ignore', 'ignore', 'inherit'] })
    t.teardown(() => fence.kill('SIGKILL'))
    const at = `/proc/${fence.pid ?? 0}`
    await until('it stands', () => readFileSync(`${at}/cmdline`, 'latin1').startsWith(name))
    const open = readdirSync(`${at}/fd`)
    t.equal(open.length, 4, 'its standard streams, and what tells that it lives')
  }
})

t.test('what it forked ends with it', async (t) => {
  const server = start(t)
  const child = server.fork('session', { env: {}, run: ['exec', '/bin/sleep', '60'] })
  if (child === undefined) throw new Error('no child')
  await until('it runs', () => child.pid !== undefined)
  const ended = once(child, 'exit')
  process.kill(server.pid, 'SIGKILL')
  t.same(await ended, [null, 'SIGKILL'], 'it is told')
  await until('it is gone', () => (statusOf(child.pid ?? 0, 'State') ?? 'Z').startsWith('Z'))
  t.equal(server.fork('gate', { env: {}, run: ['exec', '/bin/true'] }), undefined, 'no more')
  t.equal(await server.dumpChain('agentjail', 'output'), '', 'nor is anything known')
})

t.test('a uid that no process has', async (t) => {
  const system = start(t).over(realSystem())
  const uid = 1_900_099_871
  t.same(await system.processesOf(uid), [])
  const argv = [`--reuid=${uid}`, '--clear-groups', '/bin/sleep', '60']
  const child = spawn(tools.get('setpriv'), argv)
  t.teardown(() => child.kill('SIGKILL'))
  await until(
    'it is that user',
    () => statusOf(child.pid ?? 0, 'Uid')?.startsWith(`${uid}`) === true,
  )
  t.same(await system.processesOf(uid), [child.pid])
  t.ok((await system.processesOf(0)).includes(process.pid))
  child.kill('SIGKILL')
  await once(child, 'exit')
  t.same(await system.processesOf(uid), [])
})

t.test('the bytes of a chain tell every change', (t) => {
  const script = fileURLToPath(new URL('fixtures/dump-chain.js', import.meta.url))
  const argv = ['--net', '--', process.execPath, script]
  const { stdout, stderr } = spawnSync(tools.get('unshare'), argv, { encoding: 'utf8' })
  t.equal(stderr, '')
  const steps = JSON.parse(stdout) as Record<string, string>
  const bytes = Object.values(steps)
  t.same(Object.keys(steps), [
    ...['none', 'made', 'same', 'other table', 'rule added', 'rule deleted', 'dormant', 'anew'],
  ])
  t.equal(steps['none'], '')
  t.equal(steps['same'], steps['made'], 'nothing changed')
  t.equal(steps['other table'], steps['made'], 'nothing of it changed')
  t.equal(steps['rule deleted'], steps['made'], 'as it was')
  t.equal(new Set(bytes).size, 5, 'each change shows')
  t.ok(bytes.slice(1).every((each) => /^([0-9a-f]{2})+$/.test(each)))
  t.end()
})

t.test('a deny that was seen is not listed again', async (t) => {
  const files = new Map<string, string>()
  const system = {
    readFile: (path: string) => Promise.resolve(files.get(path)),
    writeFile: (path: string, text: string) => Promise.resolve(void files.set(path, text)),
  } as unknown as System
  let bytes = '01'
  let looks = 0
  let problem: string | undefined
  const look = (): Promise<string | undefined> => {
    looks++
    return Promise.resolve(problem)
  }
  const seen = new SeenDeny(system, '/run/x', () => Promise.resolve(bytes))
  const range = { first: 1000, last: 1999 }
  const asked = async (of = seen, among = range): Promise<number> => {
    const before = looks
    t.equal(await of.problem(among, look), looks > before ? problem : undefined)
    return looks - before
  }
  problem = 'missing'
  t.equal(await asked(), 1)
  t.equal(await asked(), 1, 'a problem is not remembered')
  problem = undefined
  t.equal(await asked(), 1)
  t.equal(await asked(), 0, 'seen')
  t.equal(await asked(seen, { first: 1000, last: 2999 }), 1, 'of another range')
  bytes = '02'
  t.equal(await asked(), 1, 'changed')
  t.equal(await asked(), 0)
  bytes = ''
  t.equal(await asked(), 1, 'not known')
  t.equal(await asked(new SeenDeny(system, '/run/x', undefined)), 1, 'nobody to tell')
  bytes = '03'
  const changing = new SeenDeny(system, '/run/y', () => Promise.resolve((bytes += '0')))
  t.equal(await asked(changing), 1)
  t.equal(files.get('/run/y/deny.seen'), undefined, 'changed while it was listed')
  const full = {
    readFile: () => Promise.reject(new Error('EISDIR')),
    writeFile: () => Promise.reject(new Error('ENOSPC')),
  } as unknown as System
  t.equal(
    await asked(new SeenDeny(full, '/run/z', () => Promise.resolve('04'))),
    1,
    'without room for it, it is only not remembered',
  )
})
