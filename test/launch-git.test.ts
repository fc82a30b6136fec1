/**
 * Repositories laid out in every way that Git knows, in a workspace: what a command plants there must not run when the
 * caller uses git next. The judge is git itself, run as the caller, and a mark that the planted program leaves.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { caller, makePlace, sh, tool } from './launch-support.js'

const place = makePlace()
t.teardown(() => place.remove())
const ws = place.workspace
const mark = `${ws}/ran`
// Milliseconds: bounds a hang, judges no speed.
t.setTimeout(300_000)

/** A line of sh as the caller, in the workspace. */
function asCaller(line: string): string {
  const ids = [`--reuid=${String(caller.uid)}`, `--regid=${String(caller.gid)}`, '--clear-groups']
  const env = {
    PATH: '/usr/bin:/bin',
    HOME: '/nonexistent',
    ...{ GIT_AUTHOR_NAME: 'a', GIT_AUTHOR_EMAIL: 'a@b.c' },
    ...{ GIT_COMMITTER_NAME: 'a', GIT_COMMITTER_EMAIL: 'a@b.c', GIT_ALLOW_PROTOCOL: 'file' },
  }
  const options = { encoding: 'utf8', cwd: ws, env } as const
  const { stdout, stderr } = spawnSync(tool('setpriv'), [...ids, 'sh', '-ec', line], options)
  return stdout + stderr
}

/** Writes a hook into each directory, and settings into each file, by every means. */
function plant(hooks: readonly string[], settings: readonly string[]): string {
  const program = `printf '#!/bin/sh\\ntouch ${mark}\\n'`
  return [
    'exec 2>/dev/null',
    ...hooks.flatMap((dir) => [
      `test -L ${dir} && { rm -f ${dir}; mkdir ${dir}; }`,
      `mv ${dir} ${dir}.moved; mkdir -p ${dir}`,
      `for h in post-commit post-checkout post-index-change; do ${program} > ${dir}/$h; chmod 755 ${dir}/$h; done`,
    ]),
    ...settings.flatMap((file) => [
      `test -L ${file} && rm -f ${file}`,
      `mkdir -p "$(dirname ${file})"`,
      `printf '[core]\\n\\tfsmonitor = "touch ${mark}; false"\\n' >> ${file} || { mv ${file} ${file}.moved; printf '[core]\\n\\tfsmonitor = "touch ${mark}; false"\\n' > ${file}; }`,
    ]),
    'true',
  ].join('\n')
}

interface Layout {
  readonly title: string
  readonly make: string
  /** Where git is used afterwards. */
  readonly at: string
  readonly hooks?: readonly string[]
  readonly settings?: readonly string[]
  /** Done besides. */
  readonly script?: string
  /** The command did get through, and the caller is told so. */
  readonly told?: RegExp
}

const layouts: readonly Layout[] = [
  {
    title: 'a Git directory under another name',
    make: 'mkdir data; git init -q --separate-git-dir=data/repo.git proj',
    at: 'proj',
    hooks: ['data/repo.git/hooks'],
    settings: ['data/repo.git/config', 'data/repo.git/commondir'],
  },
  {
    title: 'a link to a Git directory',
    make: 'git init -q proj; mv proj/.git real.git; ln -s ../real.git proj/.git',
    at: 'proj',
    hooks: ['real.git/hooks'],
    settings: ['real.git/config'],
  },
  {
    title: 'hooks that are a link',
    make: 'git init -q proj; rm -r proj/.git/hooks; mkdir proj/githooks; ln -s ../githooks proj/.git/hooks',
    at: 'proj',
    hooks: ['proj/.git/hooks', 'proj/githooks'],
  },
  {
    title: 'settings that are a link',
    make: 'git init -q proj; mv proj/.git/config proj/shared; ln -s ../shared proj/.git/config',
    at: 'proj',
    settings: ['proj/shared', 'proj/.git/config'],
  },
  {
    title: 'core.hooksPath',
    make: 'git init -q proj; mkdir proj/.githooks; git -C proj config core.hooksPath .githooks',
    at: 'proj',
    hooks: ['proj/.githooks'],
  },
  {
    title: 'core.hooksPath that is not there yet',
    make: 'git init -q proj; git -C proj config core.hooksPath tools/hooks',
    at: 'proj',
    hooks: ['proj/tools/hooks'],
  },
  {
    title: 'settings that are included',
    make: 'git init -q proj; echo > proj/team.gitconfig; git -C proj config include.path ../team.gitconfig',
    at: 'proj',
    settings: ['proj/team.gitconfig'],
  },
  {
    title: 'settings that are included, and not there yet',
    make: 'git init -q proj; git -C proj config include.path ../team.gitconfig',
    at: 'proj',
    settings: ['proj/team.gitconfig'],
  },
  {
    title: 'settings of a work tree',
    make: 'git init -q proj; git -C proj config extensions.worktreeConfig true',
    at: 'proj',
    settings: ['proj/.git/config.worktree'],
  },
  {
    title: 'a second work tree',
    make: 'git init -q main; git -C main commit -q --allow-empty -m x; git -C main worktree add -q ../second',
    at: 'second',
    hooks: ['main/.git/hooks', 'main/.git/worktrees/second/hooks'],
    settings: ['main/.git/config', 'main/.git/worktrees/second/commondir', 'second/.git'],
  },
  {
    title: 'a submodule, its name with a slash',
    make: 'git init -q lib; git -C lib commit -q --allow-empty -m x; git init -q proj; git -C proj submodule --quiet add --name deps/lib ../lib dep',
    at: 'proj/dep',
    hooks: ['proj/.git/modules/deps/lib/hooks'],
    settings: ['proj/.git/modules/deps/lib/config', 'proj/.git/modules/deps/lib/commondir'],
  },
  {
    title: 'a bare repository',
    make: 'git init -q --bare bare; git -C bare symbolic-ref HEAD refs/heads/none; git -C bare config core.bare false; git -C bare config core.worktree ..',
    at: 'bare',
    hooks: ['bare/hooks'],
    settings: ['bare/config'],
  },
  {
    title: 'a bare repository that the command makes',
    make: 'mkdir docs',
    at: 'docs',
    hooks: ['docs/hooks'],
    script: `mkdir -p docs/objects docs/refs; echo ref: refs/heads/x > docs/HEAD
      printf "[core]\\n\\trepositoryformatversion = 0\\n\\tbare = false\\n\\tworktree = ..\\n" > docs/config`,
    told: /made a Git repository .*\/docs/,
  },
  {
    title: 'a link to a Git directory, replaced',
    make: 'git init -q proj; mv proj/.git real.git; ln -s ../real.git proj/.git',
    at: 'proj',
    script: `cp -r real.git evil; ln -sfn ../evil proj/.git
      printf '[core]\\n\\tfsmonitor = "touch ${mark}; false"\\n' > evil/config`,
    told: /changed .*proj\/\.git/,
  },
]

for (const { title, make, at, hooks = [], settings = [], script = '', told } of layouts) {
  t.test(title, async (t) => {
    execFileSync('find', [ws, '-mindepth', '1', '-delete'])
    t.equal(asCaller(make), '')
    const { code, events } = await sh(place, `${plant(hooks, settings)}\n${script}`)
    t.equal(code, 0, JSON.stringify(events))
    const use = `cd ${at}; git status -s; git commit -q --allow-empty -m y; git checkout -q -b new`
    const said = asCaller(use)
    if (told === undefined) {
      t.notOk(existsSync(mark), 'nothing of it ran')
      t.equal(asCaller(`cd ${at}; git log --format=%s -1`), 'y\n', `git works, and said: ${said}`)
      const left = 'find . -name commondir -size -3c; find . -name team.gitconfig -empty'
      t.equal(asCaller(left), '', 'placeholders are gone')
    } else {
      t.ok(existsSync(mark), 'it would run')
      t.match((events.at(-1)?.['limits'] as string[]).join('\n'), told, 'so the caller is told')
    }
  })
}

t.test('a link to a file that is closed closes that file', async (t) => {
  execFileSync('find', [ws, '-mindepth', '1', '-delete'])
  asCaller(
    'mkdir cfg sub; echo KEY=1 > cfg/secrets; ln -s cfg/secrets .env; ln -s ../cfg/secrets sub/.env; echo K=2 > .ENV.Local; echo x > cfg/rc; ln -s cfg/rc .envrc',
  )
  const { stdout, events } = await sh(
    place,
    'cat .env sub/.env cfg/secrets .ENV.Local; (echo evil >> cfg/rc); rm .envrc; echo evil > .envrc; mv cfg c2; echo ran',
  )
  t.equal(stdout, 'ran\n')
  t.equal(readFileSync(`${ws}/cfg/rc`, 'utf8'), 'x\n')
  t.match((events.at(-1)?.['limits'] as string[]).join('\n'), /\.envrc/, 'a link replaced is told')
})

t.test('a policy that lies in the workspace is not the command’s to write', async (t) => {
  execFileSync('find', [ws, '-mindepth', '1', '-delete'])
  const text = 'version: 1\nnetwork: {allow: [a.example]}\n'
  asCaller('mkdir policies deploy')
  for (const name of ['policy.yaml', 'policies/bot.yml', 'deploy/policy.yaml'])
    writeFileSync(`${ws}/${name}`, name.startsWith('deploy') ? 'kind: NetworkPolicy\n' : text)
  execFileSync('chown', ['-R', String(caller.uid), ws])
  const { events } = await sh(
    place,
    `for f in policy.yaml policies/bot.yml deploy/policy.yaml; do echo evil >> $f; rm -f $f; done; printf '${text.replaceAll('\n', '\\n')}' > policies/new.yaml`,
  )
  for (const name of ['policy.yaml', 'policies/bot.yml'])
    t.equal(readFileSync(`${ws}/${name}`, 'utf8'), text, name)
  t.notOk(existsSync(`${ws}/deploy/policy.yaml`), 'of another program: written as any file')
  t.match((events.at(-1)?.['limits'] as string[]).join('\n'), /policies\/new\.yaml/)
  rmSync(`${ws}/policies`, { recursive: true })
})
