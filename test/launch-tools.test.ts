/**
 * Ordinary tools work in a jail, and each piece of the hardening that is left out can be seen to be out:
 * what `verify` looks at can fail.
 */
import { execFileSync, spawn } from 'node:child_process'
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs'
import t from 'tap'
import type { HardeningPiece } from '../lib/launch/types.js'
import {
  caller,
  driverPath,
  jailUid,
  makePlace,
  run,
  sh,
  specText,
  tool,
} from './launch-support.js'

const place = makePlace()
t.teardown(() => place.remove())

t.test('ordinary tools', async (t) => {
  const rows: [title: string, script: string, expected: RegExp][] = [
    [
      'git',
      `git init -q repo 2>&1 && cd repo && git config user.email a@b.example && git config user.name A &&
       echo 1 > f && git add f && git commit -qm one && git log --oneline | wc -l`,
      /^1\n$/,
    ],
    [
      'make and cc',
      `printf 'int main(void){return 7;}\\n' > a.c; printf 'a: a.c\\n\\tcc -o a a.c\\n' > Makefile; make -s a && ./a; echo $?`,
      /^7\n$/,
    ],
    ['python venv', 'python3 -m venv --without-pip v && v/bin/python -c "print(6*7)"', /^42\n$/],
    [
      'npm install of a local package, and its test',
      `mkdir -p dep app && echo '{"name":"dep","version":"1.0.0","main":"i.js"}' > dep/package.json && echo 'module.exports=5' > dep/i.js &&
       cd app && echo '{"name":"app","version":"1.0.0","scripts":{"test":"node t.js"},"dependencies":{"dep":"file:../dep"}}' > package.json &&
       echo 'process.exit(require("dep")===5?0:1)' > t.js && npm install --offline --no-audit --no-fund --silent 2>&1 && npm test --silent; echo $?`,
      /^0\n$/,
    ],
    [
      'node --test, with worker threads and child processes',
      `echo 'const {test}=require("node:test");const {Worker}=require("node:worker_threads");
        test("w",()=>new Promise(r=>new Worker("require(\\"child_process\\").execFileSync(\\"true\\")",{eval:true}).on("exit",r)))' > w.test.js;
       node --test w.test.js > out 2>&1; echo $?`,
      /^0\n$/,
    ],
    [
      'shared memory',
      `python3 -c 'import multiprocessing as m; print(m.Value("i", 3).value)'`,
      /^3\n$/,
    ],
    ['a pseudo-terminal', `python3 -c 'import pty; pty.spawn(["true"]); print("ok")'`, /ok/],
    ['gdb-like tracing of its own child', `perl -e 'exit(syscall(101,0,0,0,0))'; echo $?`, /^0\n$/],
  ]
  for (const [title, script, expected] of rows) {
    const { stdout, stderr } = await sh(place, script)
    t.match(stdout, expected, `${title} ${stderr.slice(0, 300)}`)
  }
})

t.test('git in a repository of the caller: commits work, settings and hooks stay', async (t) => {
  const repo = `${place.workspace}/theirs`
  mkdirSync(repo)
  const git = (...args: string[]): string =>
    execFileSync(tool('git'), ['-C', repo, ...args], {
      encoding: 'utf8',
      env: { PATH: '/usr/bin:/bin', HOME: '/nonexistent', GIT_CONFIG_NOSYSTEM: '1' },
      ...{ uid: caller.uid, gid: caller.gid },
    })
  execFileSync('/usr/bin/chown', [`${String(caller.uid)}:${String(caller.gid)}`, repo])
  git('init', '-q')
  git('config', 'user.email', 'a@b.example')
  git('config', 'user.name', 'A')
  git('commit', '-q', '--allow-empty', '-m', 'zero')
  const { stdout } = await sh(
    place,
    `cd ${repo} && echo 1 > f && git add f && git commit -qm one 2>&1 && git checkout -q -b side 2>&1 && echo 2 >> f && git commit -qam two 2>&1 &&
     git checkout -q - && git merge -q side 2>&1 && git gc -q 2>&1; git log --oneline | wc -l
     git config core.fsmonitor evil 2>/dev/null && echo CHANGED; echo 'evil' > .git/hooks/pre-commit 2>/dev/null && echo HOOKED`,
    { cwd: repo },
  )
  t.equal(stdout, '3\n')
  t.equal(git('log', '--oneline').trim().split('\n').length, 3, 'and the caller goes on with it')
  t.notOk(readdirSync(`${repo}/.git/hooks`).includes('pre-commit'))
  t.equal(lstatSync(`${repo}/.git/index`).uid, caller.uid)
})

t.test('the network namespace that was named is the one joined', async (t) => {
  const holder = spawn(tool('unshare'), ['--net', tool('sleep'), '60'], { stdio: 'ignore' })
  t.teardown(() => holder.kill('SIGKILL'))
  const own = readlinkSync('/proc/self/ns/net')
  const path = `/proc/${String(holder.pid)}/ns/net`
  while (readlinkSync(path) === own) await new Promise((resolve) => setTimeout(resolve, 5))
  const inside = await run(place, ['readlink', '/proc/self/ns/net'], { netns: path })
  t.equal(inside.stdout.trim(), readlinkSync(path))
  const left = await run(place, ['readlink', '/proc/self/ns/net'], {
    netns: path,
    without: ['network'],
  })
  t.equal(left.stdout.trim(), own, 'left out: the one it started in')
  const none = await run(place, ['true'], { netns: '/proc/1/ns/none' })
  t.equal(none.code, 125, 'none there: refused')
})

t.test('an extra CA is trusted by the usual means', async (t) => {
  const extraCa = '-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----'
  const { stdout } = await sh(
    place,
    `tail -n 3 $SSL_CERT_FILE; cat $NODE_EXTRA_CA_CERTS; tail -n 3 /etc/ssl/certs/ca-certificates.crt; grep -c BEGIN $CURL_CA_BUNDLE`,
    { extraCa },
  )
  t.equal(stdout.split(extraCa).length, 4)
  t.ok(Number(stdout.trim().split('\n').at(-1)) > 50, 'with the roots of the system')
})

t.test('each piece left out is out', async (t) => {
  const status = (field: string) => `sed -n 's/^${field}:\\t//p' /proc/self/status`
  const rows: [piece: HardeningPiece, script: string, kept: RegExp, out: RegExp][] = [
    ['seccomp', status('Seccomp'), /^2$/, /^0$/],
    ['capabilities', status('CapBnd'), /^0{16}$/, /[1-9a-f]/],
    ['no-new-privs', status('NoNewPrivs'), /^1$/, /^0$/],
    ['pid-namespace', `ls /proc | grep -c '^[0-9]'`, /^[2-6]$/, /^\d\d+$/],
    ['ipc-namespace', 'readlink /proc/self/ns/ipc', /ipc/, /ipc/],
    ['mount-namespace', 'ls -d /sys/kernel 2>&1', /No such/, /^\/sys\/kernel$/],
    ['limits', 'ulimit -n', /^99$/, /^(?!99$)/],
  ]
  const limits = { openFiles: 99 }
  for (const [piece, script, kept, out] of rows) {
    const whole = (await sh(place, script, { limits })).stdout.trim()
    const less = (await sh(place, script, { limits, without: [piece] })).stdout.trim()
    t.match(whole, kept, `${piece} held`)
    t.match(less, out, `${piece} left out`)
    if (piece === 'ipc-namespace') t.equal(less, readlinkSync('/proc/self/ns/ipc'))
  }
  const groups = await sh(place, 'id -G', { without: ['groups'] })
  t.match(groups.stdout, String(jailUid))
})

t.test(
  'isolation basic: another account, no capabilities, own processes; the files of the host',
  async (t) => {
    const { stdout } = await sh(
      place,
      `id -u; sed -n 's/^\\(CapBnd\\|NoNewPrivs\\|Seccomp\\):\\t//p' /proc/self/status; ls /proc | grep -c '^[0-9]'; ls -d /sys/kernel; echo 1 > ~/x && cat ~/x`,
      { isolation: 'basic' },
    )
    t.match(stdout, new RegExp(`^${String(jailUid)}\n0{16}\n1\n2\n[2-6]\n/sys/kernel\n1\n$`))
    t.equal(readFileSync(`${place.home}/x`, 'utf8'), '1\n')
    writeFileSync(`${place.root}/private`, 'x', { mode: 0o600 })
    t.equal(
      (await sh(place, `cat ${place.root}/private 2>/dev/null; echo $?`, { isolation: 'basic' }))
        .stdout,
      '1\n',
    )
  },
)

t.test(
  'a program outside the system is shown with the tree it is installed in, read-only',
  async (t) => {
    const prefix = `${place.root}/versions/v1`
    mkdirSync(`${prefix}/bin`, { recursive: true })
    mkdirSync(`${prefix}/lib`)
    writeFileSync(`${prefix}/lib/data`, 'found\n')
    writeFileSync(
      `${prefix}/bin/hello`,
      `#!/bin/sh\ncat ${prefix}/lib/data; (: > ${prefix}/lib/x) 2>/dev/null && echo WROTE; ls ${place.root}/versions\n`,
      { mode: 0o755 },
    )
    mkdirSync(`${place.root}/versions/v2`)
    const env: [string, string][] = [['PATH', `${prefix}/bin:/usr/bin:/bin`]]
    t.equal((await run(place, ['hello'], { env })).stdout, 'found\nv1\n')
  },
)

t.test('resolv.conf as a link into /run, also to what is not there', async (t) => {
  const dir = `${place.root}/etc`
  for (const name of ['upper', 'work']) mkdirSync(`${dir}/${name}`, { recursive: true })
  const script = `mount -t overlay overlay -o lowerdir=/etc,upperdir=${dir}/upper,workdir=${dir}/work /etc &&
    ln -sf ../run/agentjail-test-none/stub.conf /etc/resolv.conf && exec ${process.execPath} ${driverPath}`
  const stdout = execFileSync(
    tool('unshare'),
    ['--mount', '--propagation', 'private', 'sh', '-c', script],
    {
      encoding: 'utf8',
      env: {
        PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
        AGENTJAIL_TEST_SPEC: specText(place, ['cat', '/etc/resolv.conf']),
      },
    },
  )
  t.equal(stdout, 'nameserver 192.0.2.53\n')
})

t.test('output to the journal is taken, a connection to another service is not', async (t) => {
  const server = (path: string) => `
import os, socket, subprocess, sys
os.makedirs(os.path.dirname('${path}'), exist_ok=True)
s = socket.socket(socket.AF_UNIX); s.bind('${path}'); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect('${path}')
a, _ = s.accept()
print(subprocess.call(['${process.execPath}', '${driverPath}'], stdout=c))
c.close(); print(repr(a.recv(100)))`
  const play = (path: string): string =>
    execFileSync(
      tool('unshare'),
      [
        '--mount',
        '--propagation',
        'private',
        'sh',
        '-c',
        'mount -t tmpfs t /run && exec python3 -c "$0"',
        server(path),
      ],
      {
        encoding: 'utf8',
        env: {
          PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
          AGENTJAIL_TEST_SPEC: specText(place, ['echo', 'logged']),
        },
      },
    )
  t.equal(play('/run/systemd/journal/stdout'), "0\nb'logged\\n'\n")
  t.equal(play('/run/docker.sock'), "125\nb''\n")
})
