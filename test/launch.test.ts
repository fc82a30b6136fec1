/**
 * The launch on the real kernel: what the command is, sees, and leaves. Judges are /proc, the exit
 * status and the files on disk, not the launcher's word.
 */
import { execFile } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import t from 'tap'
import {
  caller,
  driverPath,
  jailUid,
  makePlace,
  processesOf,
  run,
  sh,
  specText,
  start,
  tool,
  until,
} from './launch-support.js'

const place = makePlace()
t.teardown(() => place.remove())
const other = makePlace()
t.teardown(() => other.remove())

// Milliseconds: bounds a hang, judges no speed.
t.setTimeout(300_000)
t.test('how a command ends', async (t) => {
  const rows: [command: string[], code: number, stderr: RegExp][] = [
    [['true'], 0, /^$/],
    [['false'], 1, /^$/],
    [['sh', '-c', 'exit 42'], 42, /^$/],
    [['sh', '-c', 'exit 255'], 255, /^$/],
    [['no-such-command'], 127, /^agentjail: no-such-command: command not found\n$/],
    [['--reuid=0'], 127, /^agentjail: --reuid=0: command not found\n$/],
    [['./none'], 127, /^agentjail: \.\/none: No such file or directory\n$/],
    [['/etc/passwd'], 126, /^agentjail: \/etc\/passwd: Permission denied\n$/],
    [['/etc/'], 126, /Is a directory/],
    [['--help'], 127, /^agentjail: --help: command not found\n$/],
    [['echo', '--', '-n', '$(id)', '*', ''], 0, /^$/],
  ]
  for (const [command, code, stderr] of rows) {
    const result = await run(place, command)
    t.equal(result.code, code, command.join(' '))
    t.match(result.stderr, stderr, command.join(' '))
  }
  for (const signal of ['KILL', 'TERM', 'INT', 'HUP', 'SEGV', 'PIPE', 'ALRM', 'USR1']) {
    const result = await sh(place, `kill -${signal} $$`)
    t.match(result.events.at(-1), { type: 'ended', signal: `SIG${signal}` }, `death by ${signal}`)
  }
})

t.test('arguments, variables and input arrive as given, and nothing else does', async (t) => {
  const odd = ['a b', '', '$HOME', "'", '"', '\\', '-n', 'ü€\n', '*']
  const result = await run(place, [
    'node',
    '-e',
    'console.log(JSON.stringify(process.argv))',
    ...odd,
  ])
  t.same((JSON.parse(result.stdout) as string[]).slice(1), odd)
  const env = await run(place, ['env', '-0'], {
    env: [
      ['PATH', '/usr/bin:/bin'],
      ['LD_PRELOAD', '/nonexistent.so'],
      ['PERL5OPT', '-Mnonexistent'],
      ['MULTI', 'a\nb=c'],
    ],
  })
  t.same(env.stdout.split('\0').filter(Boolean).sort(), [
    'LD_PRELOAD=/nonexistent.so',
    'MULTI=a\nb=c',
    'PATH=/usr/bin:/bin',
    'PERL5OPT=-Mnonexistent',
  ])
  t.notMatch(env.events, [{ type: 'error' }])
  const echo = start(place, ['cat'])
  echo.child.stdin?.end('through\n')
  t.equal((await echo.result).stdout, 'through\n')
})

t.test('who the command is', async (t) => {
  const { stdout } = await sh(place, 'cat /proc/self/status; echo limit $(ulimit -c) $(ulimit -Hc)')
  const field = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(stdout)?.[1]?.trim()
  const none = '0000000000000000'
  t.equal(field('Uid'), Array(4).fill(jailUid).join('\t'))
  t.equal(field('Gid'), Array(4).fill(jailUid).join('\t'))
  t.equal(field('Groups'), '')
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
    t.equal(field(set), none, set)
  t.equal(field('NoNewPrivs'), '1')
  t.equal(field('Seccomp'), '2')
  t.equal(field('SigBlk'), none)
  t.equal(field('SigIgn'), none)
  t.match(stdout, /^limit 0 0$/m)
})

t.test('what it sees: itself, the system, its workspace', async (t) => {
  const { stdout } = await sh(
    place,
    `echo pids $(ls /proc | grep -c '^[0-9]')
     echo init $(cat /proc/1/comm)
     echo home $(ls -A /home /root /srv /mnt /media /var/log | grep -v : | wc -w)
     echo run $(ls -A /run)
     echo tmp $(ls -A /tmp) .
     echo resolv $(cat /etc/resolv.conf)
     echo nss $(grep ^hosts: /etc/nsswitch.conf)
     echo sys $(ls /sys 2>&1)
     echo shm $(ipcs -m | grep -c 0x)
     for f in /usr/x /etc/x /opt/x /x /run/x /dev/x /proc/sys/kernel/hostname; do (: > $f) 2>/dev/null && echo WROTE $f; done
     for f in /tmp/x /var/tmp/x /dev/shm/x $HOME/x ./x; do (: > $f) || echo COULD NOT $f; done
     grep -v nosuid /proc/self/mountinfo`,
  )
  t.match(stdout, /^init perl|^init agentjail-init/m)
  t.match(stdout, /^pids [2-6]$/m)
  t.match(stdout, /^home 0$/m)
  t.match(stdout, /^run agentjail lock$/m)
  t.match(stdout, /^resolv nameserver 192.0.2.53$/m)
  t.match(stdout, /^nss hosts: files dns$/m)
  t.match(stdout, /^sys .*No such file/m)
  t.notMatch(stdout, /WROTE|COULD NOT/)
  t.notMatch(stdout, /^\d+ \d+ \d+:/m, 'every mount is nosuid')
})

t.test('descriptors: three, and no network socket among them', async (t) => {
  const { stdout } = await run(place, ['ls', '/proc/self/fd'])
  t.same(stdout.trim().split('\n').slice(0, 3), ['0', '1', '2'])
  // ls itself opens the directory it lists.
  t.equal(stdout.trim().split('\n').length, 4)
  const { createServer, connect } = await import('node:net')
  const { spawn } = await import('node:child_process')
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const address = server.address()
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0
  const socket = connect(port, '127.0.0.1')
  await new Promise((resolve) => socket.once('connect', resolve))
  const child = spawn(process.execPath, [driverPath], {
    stdio: [socket, 'ignore', 'ignore', 'pipe'],
    env: { AGENTJAIL_TEST_SPEC: specText(place, ['true']), AGENTJAIL_TEST_EVENTS: '1' },
  })
  let text = ''
  child.stdio[3]?.on('data', (data: Buffer) => (text += data.toString()))
  const code = await new Promise((resolve) => child.on('close', resolve))
  t.equal(code, 125)
  t.match(text, /descriptor 0 is a network socket/)
  socket.destroy()
  server.close()
})

t.test('the workspace: the caller keeps what the command makes', async (t) => {
  writeFileSync(`${place.workspace}/mine`, 'of the caller\n', { mode: 0o600 })
  chownSync(`${place.workspace}/mine`, caller.uid, caller.gid)
  const { stdout } = await sh(
    place,
    'cat mine; echo more >> mine; mkdir -p d/e; : > d/e/new; stat -c %u d/e/new mine; chmod 4755 d/e/new 2>&1',
  )
  t.match(stdout, `of the caller\n${String(jailUid)}\n${String(jailUid)}\n`)
  t.match(stdout, /Operation not permitted/)
  for (const path of ['mine', 'd', 'd/e/new']) {
    const { uid, gid } = lstatSync(`${place.workspace}/${path}`)
    t.same({ uid, gid }, caller, path)
  }
  t.equal(lstatSync(`${place.workspace}/d/e/new`).mode & 0o7000, 0)
  t.equal(readFileSync(`${place.workspace}/mine`, 'utf8'), 'of the caller\nmore\n')
})

t.test('what no workspace opens', async (t) => {
  const ws = other.workspace
  const files = {
    '.git/config': '[core]\n',
    '.git/HEAD': 'ref: refs/heads/main\n',
    '.git/index': '',
    'sub/.git/config': '[core]\n',
    'sub/.git/HEAD': 'x\n',
    '.env': 'KEY=1\n',
    '.env.local': 'KEY=2\n',
    '.env.example': 'KEY=\n',
    'sub/.env': 'KEY=3\n',
    '.ssh/id_ed25519': 'KEY\n',
    '.vscode/tasks.json': '{}\n',
    '.envrc': 'x\n',
    'tool/agentjail/cli.js': '1\n',
    'open/file': '1\n',
  }
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(`${ws}/${path}`), { recursive: true })
    writeFileSync(`${ws}/${path}`, text)
  }
  const { execFileSync } = await import('node:child_process')
  execFileSync('/usr/bin/chown', ['-R', `${String(caller.uid)}:${String(caller.gid)}`, ws])
  symlinkSync('/etc', `${ws}/.idea`)
  const { stdout } = await sh(
    other,
    `cd ${ws}
     for f in .git/config .git/commondir sub/.git/commondir .git/hooks/pre-commit sub/.git/config sub/.git/hooks/x .vscode/tasks.json .envrc tool/agentjail/cli.js; do
       (echo evil > $f) 2>/dev/null && echo WROTE $f; test -e $f && rm -f $f 2>/dev/null && echo REMOVED $f; done
     for f in .env .env.local sub/.env .ssh/id_ed25519; do cat $f >/dev/null 2>&1 && echo READ $f; done
     for d in .git sub sub/.git .git/hooks tool tool/agentjail .vscode .ssh; do mv $d moved 2>/dev/null && echo MOVED $d; done
     cat .env.example >/dev/null || echo COULD NOT read the sample
     for f in .git/index .git/objects sub/new open/file; do : > $f || echo COULD NOT $f; done
     echo done`,
    { protect: [`${ws}/tool/agentjail`, '/usr/lib'] },
  )
  t.equal(stdout, 'done\n')
  t.equal(readFileSync(`${ws}/.git/config`, 'utf8'), '[core]\n')
  t.notOk(existsSync(`${ws}/.git/commondir`), 'placeholders are gone')
  const made = await sh(other, 'git init -q new')
  t.match((made.events.at(-1)?.['limits'] as string[])[0], /made a Git repository .*\/new\/\.git/)
  const news = await sh(
    other,
    'echo x > .npmrc; mkdir -p deep/.cursor .claude; echo {} > .claude/settings.json; echo K=1 > deep/.env; echo x > AGENTS.md',
  )
  t.same(news.events.at(-1)?.['limits'], [
    `the command made .npmrc, .claude/settings.json, deep/.cursor, deep/.env in ${ws}: programs that you start there obey such files; look first`,
    `the command wrote AGENTS.md in ${ws}: agents that you start there follow it; look first`,
  ])
  const changed = await sh(other, 'echo y >> AGENTS.md; (echo x > .npmrc) 2>&1')
  t.match(changed.stdout, /Read-only/, 'what is there now is protected')
  t.match(changed.events.at(-1)?.['limits'], [/^the command wrote AGENTS\.md/])
  t.same((await sh(other, 'cat AGENTS.md')).events.at(-1)?.['limits'], [], 'nothing new')
  const named = await sh(other, 'cat .env', {
    fs: { read: ['./.env'], write: ['.'], deny: ['open'] },
  })
  t.equal(named.stdout, 'KEY=1\n', 'a named .env is readable')
  const denied = await sh(other, 'cat open/file; ls open', {
    fs: { read: [], write: [], deny: ['open'] },
  })
  t.equal(denied.stdout, '', 'fs.deny hides')
  const inside = await sh(other, '(: > x) 2>/dev/null && echo WROTE', { protect: [ws] })
  t.equal(inside.stdout, '', 'a workspace that is agentjail itself is read-only')
})

t.test('called by root itself: the same', async (t) => {
  const ws = `${place.root}/of-root`
  mkdirSync(`${ws}/.git`, { recursive: true })
  writeFileSync(`${ws}/.git/HEAD`, 'ref: refs/heads/main\n')
  writeFileSync(`${ws}/.git/config`, '[core]\n', { mode: 0o600 })
  const { stdout, events } = await sh(
    place,
    'cat .git/config; (: > .git/hooks/x) 2>/dev/null && echo HOOKED; (: > .git/commondir) 2>/dev/null && echo LED; : > new; chmod u+s new 2>&1',
    { cwd: ws, caller: { uid: 0, gid: 0 } },
  )
  t.match(stdout, /^\[core\]\nchmod.*not permitted\n$/, JSON.stringify(events))
  for (const name of ['new', '.git/hooks']) t.equal(lstatSync(`${ws}/${name}`).uid, 0, name)
  t.equal(lstatSync(`${ws}/new`).mode & 0o7000, 0)
  t.notOk(existsSync(`${ws}/.git/commondir`))
})

t.test('a place that is no workspace: the command runs, and cannot write there', async (t) => {
  const rows: [cwd: string, note: RegExp][] = [
    ['/', /^\/ is a directory of the system/],
    ['/root', /^\/root is a home directory/],
    ['/usr/lib', /^\/usr\/lib is a directory of the system/],
  ]
  for (const [cwd, note] of rows) {
    const { stdout, events } = await sh(place, 'pwd; (: > x) 2>/dev/null && echo WROTE', { cwd })
    t.equal(stdout, `${cwd}\n`)
    t.match((events[0]?.['notes'] as string[])[0], note)
  }
  const ofRoot = { caller: { uid: 0, gid: 0 } }
  const foreign = await sh(place, '(: > x) 2>/dev/null && echo WROTE', ofRoot)
  t.equal(foreign.stdout, '', "root's power over somebody's directory is not handed on")
  t.match((foreign.events[0]?.['notes'] as string[])[0], /belongs to uid 4321, .* as that user/)
  chmodSync(place.workspace, 0o777)
  const open = await sh(place, ': > opened && echo WROTE', ofRoot)
  t.equal(open.stdout, 'WROTE\n')
  t.same(open.events[0]?.['notes'], [])
  chmodSync(place.workspace, 0o755)
  const link = `${place.root}/link`
  symlinkSync(place.workspace, link)
  t.equal(
    (await sh(place, 'pwd', { cwd: link })).stdout,
    `${place.workspace}\n`,
    'a link is resolved',
  )
  t.equal((await sh(place, 'true', { cwd: `${place.root}/none` })).code, 125, 'none there: refused')
  const many = await sh(place, 'ulimit -n', { limits: { openFiles: 99_999_999 } })
  t.match(many.stdout, /^\d+\n$/, 'a limit above the hard one is the hard one')
})

t.test('becoming someone else', async (t) => {
  const rows: [title: string, script: string][] = [
    ['setuid program', 'su -c id root </dev/null'],
    ['user namespace', 'unshare -Ur true'],
    ['mount', 'mount -t tmpfs none /tmp'],
    ['raw socket', `python3 -c 'import socket as s; s.socket(s.AF_INET, s.SOCK_RAW, 1)'`],
    ['packet socket', `python3 -c 'import socket as s; s.socket(s.AF_PACKET, s.SOCK_RAW, 0)'`],
    ['PID 1', 'kill -9 1'],
    ['reading PID 1', 'cat /proc/1/environ'],
  ]
  for (const [title, script] of rows) {
    const result = await sh(
      place,
      `if ${script} >/dev/null 2>&1; then echo OPEN; else echo closed; fi`,
    )
    t.equal(result.stdout, 'closed\n', title)
  }
})

t.test('the end of any part ends all', async (t) => {
  const daemon = `(setsid sh -c '(sleep 1000 & ) ; sleep 1000' >/dev/null 2>&1 &)`
  const kills: [string, (driver: number, init: number) => void][] = [
    ['SIGKILL of the warden', (driver) => process.kill(driver, 'SIGKILL')],
    ['SIGKILL of PID 1', (_, init) => process.kill(init, 'SIGKILL')],
    [
      'SIGKILL of bubblewrap',
      (_, init) => {
        const stat = readFileSync(`/proc/${String(init)}/stat`, 'utf8')
        process.kill(Number(stat.slice(stat.lastIndexOf(')')).split(' ')[2]), 'SIGKILL')
      },
    ],
  ]
  for (const isolation of ['namespace', 'basic'] as const) {
    for (const [title, kill] of kills) {
      const started = start(place, ['sh', '-c', `${daemon}; sleep 1000`], { isolation })
      const { initPid } = await started.event('started')
      await until('the daemon runs', () => processesOf(jailUid).length >= 3)
      kill(started.child.pid ?? 0, Number(initPid))
      await until(`${title}, ${isolation}: nothing of the uid is left`, () => {
        return processesOf(jailUid).length === 0
      })
      t.pass(`${title}, ${isolation}`)
      await started.result
    }
  }
  const ordinary = await sh(place, `${daemon}; exit 3`)
  t.equal(ordinary.code, 3)
  t.same(processesOf(jailUid), [], 'a daemon does not outlive the command')
})

t.test(
  'limits: each says so when it is hit, and nothing of them is left',
  { timeout: 120_000 },
  async (t) => {
    const forks = 'for i in 1 2 3 4 5 6 7 8; do sleep 0.2 & done; wait'
    const rows: [limits: object, script: string, message: RegExp][] = [
      [{ pids: 5 }, forks, /^limits\.pids: \d+ new process/],
      [
        { memory: 40_000_000 },
        `perl -e '$x = q(a) x 90e6'`,
        /^limits\.memory: 1 process was killed/,
      ],
      [
        { cpu: 0.2 },
        `perl -e 'my $t; do { ($t) = times } while $t < 0.2'`,
        /^limits\.cpu: held back in \d+ periods/,
      ],
      [
        { tmp: 1_000_000 },
        'head -c 3000000 /dev/zero > /tmp/x',
        /^limits\.tmp: \/tmp was full, at 1MB$/,
      ],
      [
        { tmp: 1_048_576 },
        'head -c 3000000 /dev/zero > /dev/shm/x; sleep 1.5; rm /dev/shm/x',
        /^limits\.tmp: \/dev\/shm was full, at 1MiB$/,
      ],
      [
        { openFiles: 40 },
        `perl -e 'while (open my $f, "<", "/") { push @f, $f } sleep 2'`,
        /^limits\.openFiles: a process had all of its 40 files open$/,
      ],
    ]
    for (const [limits, script, message] of rows) {
      const { events } = await sh(place, script, { limits })
      const hits = events.at(-1)?.['limits'] as string[]
      t.match(hits[0], message)
      const calm = await sh(place, 'true', { limits })
      t.same(calm.events.at(-1)?.['limits'], [], 'not hit: nothing said')
    }
    const files = await sh(place, 'ulimit -n', { limits: { openFiles: 77 } })
    t.equal(files.stdout, '77\n')
    const tmp = await sh(place, 'head -c 3000000 /dev/zero > /tmp/x 2>&1; stat -c %s /tmp/x', {
      limits: { tmp: 1_000_000 },
    })
    t.ok(Number(tmp.stdout.trim().split('\n').at(-1)) <= 1_003_520, 'disk in /tmp')
    const left = ['pids', 'memory', 'cpu', '.'].flatMap((name) => {
      const dir = `/sys/fs/cgroup/${name}/agentjail/test`
      return existsSync(dir) ? [dir] : []
    })
    t.same(left, [])
  },
)

t.test('a file system without idmapped mounts: access lists, taken back at the end', async (t) => {
  // An overlay, in a mount namespace of this test's own.
  const dir = `${place.root}/overlay`
  for (const name of ['lower', 'upper', 'work', 'merged'])
    mkdirSync(`${dir}/${name}`, { recursive: true })
  const ws = `${dir}/merged/ws`
  const spec = specText(
    place,
    ['sh', '-c', 'cat old; echo 2 >> old; mkdir -p d; : > d/new; stat -c %u d/new'],
    { cwd: ws },
  )
  const script = `mount -t overlay overlay -o lowerdir=${dir}/lower,upperdir=${dir}/upper,workdir=${dir}/work ${dir}/merged
    mkdir ${ws}; echo 1 > ${ws}/old; chmod 600 ${ws}/old; chown -R ${String(caller.uid)}:${String(caller.gid)} ${ws}
    ${process.execPath} ${driverPath}; echo code $?
    stat -c '%n %u' ${ws}/old ${ws}/d ${ws}/d/new; cat ${ws}/old; getfacl -R ${ws} 2>&1 | grep -c user:19`
  const stdout = await new Promise<string>((resolve) => {
    execFile(
      tool('unshare'),
      ['--mount', '--propagation', 'private', 'sh', '-c', script],
      {
        env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', AGENTJAIL_TEST_SPEC: spec },
        timeout: 30_000,
      },
      (_, out, err) => resolve(out + err),
    )
  })
  t.match(stdout, new RegExp(`^1\n${String(jailUid)}\ncode 0\n`), 'the jail reads and writes')
  for (const name of ['old', 'd', 'd/new']) {
    t.match(stdout, `${ws}/${name} ${String(caller.uid)}\n`, `${name} is the caller's`)
  }
  t.match(stdout, /\n1\n2\n0\n$/, 'no entry of the jail is left')
})
