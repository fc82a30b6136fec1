/**
 * Workspaces that are shared by access lists, where a file system has no idmapped mounts: what root does there, and what
 * is left. The judges are the lists and owners on disk.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import t from 'tap'
import type { Tree } from '../lib/launch/mount-facts.js'
import type { LaunchSpec } from '../lib/launch/types.js'
import { shareByAcl } from '../lib/launch/workspace-acl.js'
import { loadPolicies } from '../lib/policy/loader.js'
import { caller, jailUid, tool } from './launch-support.js'

const root = mkdtempSync('/var/tmp/agentjail-shared-')
chmodSync(root, 0o755)
t.teardown(() => rmSync(root, { recursive: true, force: true }))
// Milliseconds: bounds a hang, judges no speed.
t.setTimeout(300_000)
const other = jailUid - 1
/** renameat2(2); its flag 2 exchanges. */
const renameat2 = process.arch === 'arm64' ? 276 : 316

interface Asked {
  readonly uid?: number
  readonly mode?: 'ro' | 'rw'
  readonly guards?: Tree['guards']
  readonly caller?: { readonly uid: number; readonly gid: number }
}

const share = (path: string, asked: Asked = {}) => {
  const uid = asked.uid ?? jailUid
  const spec = { user: { uid, gid: uid }, caller: asked.caller ?? caller } as LaunchSpec
  const { mode = 'rw', guards = [] } = asked
  const before = { repositories: [], policies: [], instructions: new Map(), links: new Map() }
  const tree: Tree = { path, mode, guards, directory: true, idmap: true, before }
  return shareByAcl(spec, [tree], tool('perl'))
}

/** A directory of the caller's. */
function workspace(name: string, files: Readonly<Record<string, number>>): string {
  const ws = `${root}/${name}`
  mkdirSync(ws)
  give(ws)
  for (const [path, mode] of Object.entries(files)) {
    const parts = path.split('/')
    for (let n = 1; n < parts.length; n++) {
      const dir = `${ws}/${parts.slice(0, n).join('/')}`
      mkdirSync(dir, { recursive: true })
      give(dir)
    }
    writeFileSync(`${ws}/${path}`, `${path}\n`)
    give(`${ws}/${path}`)
    chmodSync(`${ws}/${path}`, mode)
  }
  return ws
}

const give = (path: string): void => chownSync(path, caller.uid, caller.gid)
const lists = (path: string): string =>
  execFileSync(tool('getfacl'), ['-n', '-R', '-p', path], { encoding: 'utf8' })
const entriesOf = (path: string, uid: number): string[] =>
  execFileSync(tool('getfacl'), ['-n', '-p', path], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(`user:${String(uid)}:`))

/** A line of sh as that user, with nothing else. */
function as(uid: number, line: string): string {
  const ids = [`--reuid=${String(uid)}`, `--regid=${String(uid)}`, '--clear-groups']
  return spawnSync(tool('setpriv'), [...ids, 'sh', '-c', line], { encoding: 'utf8', cwd: '/' })
    .stdout
}

t.test('what was there before is there again, to the bit', async (t) => {
  const ws = workspace('exact', {
    f: 0o644,
    'd/g': 0o600,
    'd/x': 0o755,
    listed: 0o640,
    kept: 0o644,
  })
  mkdirSync(`${ws}/inherits`)
  give(`${ws}/inherits`)
  const setfacl = (...argv: string[]) => execFileSync(tool('setfacl'), argv)
  setfacl('-m', 'u:7:rw,m::r', `${ws}/listed`)
  setfacl('-m', 'u:8:r', `${ws}/kept`)
  setfacl('-d', '-m', 'g::rwx,o::---', `${ws}/inherits`)
  symlinkSync('/etc/passwd', `${ws}/link`)
  const before = lists(ws)
  const sharing = await share(ws)
  t.same(sharing.notes, [])
  t.equal(as(jailUid, `cat ${ws}/d/g; echo more >> ${ws}/f; cat ${ws}/f`), 'd/g\nf\nmore\n')
  t.match(lists(`${ws}/listed`), /user:7:r--\n/, 'a wider mask gives nobody else more')
  as(jailUid, `cd ${ws}; mkdir -p new/deep; umask 077; : > new/deep/file; : > made; ln -s / away`)
  t.equal(
    as(caller.uid, `cd ${ws}; echo y >> made; cat made`),
    'y\n',
    'the caller has what is made',
  )
  t.same(await sharing.undo(), [])
  const owners = execFileSync('find', [ws, '-uid', String(jailUid)], { encoding: 'utf8' })
  t.equal(owners, '', 'all is the caller’s')
  t.notMatch(lists(ws), String(jailUid), 'no entry is left')
  t.notMatch(lists(`${ws}/new`), /user:\d/, 'nor one of the caller’s beside its ownership')
  t.equal(as(caller.uid, `cd ${ws}; rm -r new made away && echo gone`), 'gone\n')
  t.equal(lists(ws), before)
})

t.test('the jail gets no right that the caller lacks', async (t) => {
  const ws = workspace('rights', { own: 0o600, 'sealed/own': 0o400 })
  for (const [name, mode] of [
    ['of-root', 0o600],
    ['of-group', 0o640],
  ] as const) {
    writeFileSync(`${ws}/${name}`, 'root\n')
    chmodSync(`${ws}/${name}`, mode)
  }
  chownSync(`${ws}/of-group`, 0, caller.gid)
  const sharing = await share(ws)
  t.equal(
    as(
      jailUid,
      `cd ${ws}; cat own of-root of-group sealed/own; echo x >> sealed/own; echo x >> of-group`,
    ),
    'own\nroot\nsealed/own\n',
  )
  t.same(entriesOf(`${ws}/of-root`, jailUid), [])
  t.match(lists(`${ws}/of-group`), /user:1\d+:r--/)
  t.match(lists(`${ws}/sealed/own`), /user:1\d+:r--/)
  await sharing.undo()
  const tree = `${root}/tree-of-root`
  mkdirSync(tree)
  writeFileSync(`${tree}/key`, 'key\n', { mode: 0o600 })
  const shadow = await share(tree, { mode: 'ro' })
  t.notMatch(lists(tree), String(jailUid), 'a tree of root’s that a policy names')
  await shadow.undo()
})

t.test('a link, a directory or a file put in the way while root is at work', async (t) => {
  const secret = `${root}/secret`
  mkdirSync(secret)
  for (const name of ['shadow', 'of-jail'])
    writeFileSync(`${secret}/${name}`, 's\n', { mode: 0o600 })
  chownSync(`${secret}/of-jail`, jailUid, jailUid)
  const many = Array.from({ length: 150 }, (_, n) => `d${String(n)}`)
  const ws = workspace(
    'raced',
    Object.fromEntries(
      many.flatMap((d) => ['shadow', 'of-jail', 'b', 'c'].map((f) => [`${d}/x/${f}`, 0o600])),
    ),
  )
  symlinkSync(secret, `${ws}/lnk`)
  const racer = String.raw`chdir shift; my $to = 'lnk';
    while (1) { for my $n (0 .. 149) { my $x = "d$n/x"; syscall(${String(renameat2)}, -100, $x, -100, $to, 2) for 1, 2 } }`
  const ids = [`--reuid=${String(caller.uid)}`, `--regid=${String(caller.gid)}`, '--clear-groups']
  const racing = spawn(tool('setpriv'), [...ids, 'perl', '-e', racer, ws], { stdio: 'inherit' })
  try {
    // By path, this led setfacl astray within four.
    for (let n = 0; n < 30; n++) await (await share(ws)).undo()
  } finally {
    racing.kill('SIGKILL')
  }
  t.notMatch(lists(secret), /user:\d/, 'no list beyond the workspace')
  const owners = execFileSync('stat', ['-c', '%u', `${secret}/shadow`, `${secret}/of-jail`])
  t.equal(owners.toString(), `0\n${String(jailUid)}\n`, 'no owner either')
})

t.test('a workspace that is another one at the end is left alone', async (t) => {
  const ws = workspace('swapped', { f: 0o600 })
  const sharing = await share(ws)
  execFileSync('mv', [ws, `${ws}-away`])
  mkdirSync(ws)
  writeFileSync(`${ws}/of-jail`, '')
  chownSync(`${ws}/of-jail`, jailUid, jailUid)
  t.match(await sharing.undo(), [/something else lies there now/])
  t.equal(as(0, `stat -c %u ${ws}/of-jail`), `${String(jailUid)}\n`)
  rmSync(ws, { recursive: true })
  symlinkSync(`${ws}-away`, ws)
  t.match(await (await share(`${ws}-away`)).undo(), [])
  await t.rejects(share(ws), /cannot be shared/, 'nor is a link followed')
})

t.test('policies in the workspace stay trusted, and out of the jail’s hands', async (t) => {
  const ws = workspace('policies', { 'policy.yaml': 0o644, 'deep/secret': 0o600, '.env': 0o600 })
  writeFileSync(`${ws}/policy.yaml`, 'version: 1\nname: mine\n')
  const load = async () =>
    (await loadPolicies([`${ws}/policy.yaml`], { callerUid: caller.uid })).name
  const sharing = await share(ws, {
    guards: [
      { kind: 'read-only', path: 'policy.yaml', directory: false },
      { kind: 'read-only', path: 'deep', directory: true },
      { kind: 'hidden', path: '.env', directory: false },
    ],
  })
  t.equal(
    as(
      jailUid,
      `cd ${ws}; cat policy.yaml deep/secret .env; echo x >> deep/secret; : > new; echo ran`,
    ),
    'version: 1\nname: mine\ndeep/secret\nran\n',
  )
  t.equal(await load(), 'mine')
  execFileSync(tool('setfacl'), ['-m', 'u:4242:rwx', ws])
  await t.rejects(load(), /can be written by others \(mode 775\)/, 'the list has somebody else')
  execFileSync(tool('setfacl'), ['-x', 'u:4242', ws])
  execFileSync(tool('setfacl'), ['-m', `u:${String(jailUid)}:rw`, `${ws}/policy.yaml`])
  await t.rejects(
    load(),
    /the policy .* can be written by others/,
    'or the jail may write the file',
  )
  await sharing.undo()
  t.equal(await load(), 'mine')
})

t.test('two jails in one workspace', async (t) => {
  const ws = workspace('two', { f: 0o600 })
  const before = lists(ws)
  const first = await share(ws)
  as(jailUid, `cd ${ws}; mkdir d; echo first > d/by-first`)
  const second = await share(ws, { uid: other })
  t.equal(as(other, `cd ${ws}; echo second >> d/by-first; cat f d/by-first`), 'f\nfirst\nsecond\n')
  t.same(await first.undo(), [])
  t.equal(as(jailUid, `cat ${ws}/f`), '', 'the first is out')
  as(other, `cd ${ws}; echo third >> d/by-first; : > d/by-second`)
  t.match(
    as(caller.uid, `cd ${ws}; echo own >> d/by-second; cat d/by-first d/by-second`),
    /third\nown\n/,
  )
  t.same(await second.undo(), [])
  rmSync(`${ws}/d`, { recursive: true })
  t.equal(lists(ws), before)
})
