/**
 * What a hostile command leaves in the workspace for the next launch, or changes under a launch that is under way.
 * The judges are the files on disk.
 */
import { spawnSync } from 'node:child_process'
import {
  chownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import t from 'tap'
import { callsText } from '../lib/launch/fence-script.js'
import { outerScript } from '../lib/launch/step-scripts.js'
import { parseMachine } from '../lib/system/syscall-numbers.js'
import { caller, makePlace, sh, tool } from './launch-support.js'

const place = makePlace()
t.teardown(() => place.remove())
const ws = place.workspace
// Milliseconds: bounds a hang, judges no speed.
t.setTimeout(300_000)

t.test('a pipe where a file of Git is looked for: nobody waits for it', async (t) => {
  const planted = await sh(place, 'mkdir -p p/.git; : > p/.git/HEAD; mkfifo p/.git/commondir')
  t.match(planted.events.at(-1), { type: 'ended', code: 0 }, 'the end')
  t.match((await sh(place, 'echo ran')).stdout, 'ran', 'the next launch')
  rmSync(`${ws}/p`, { recursive: true })
})

t.test('directories above what the policy names cannot be moved away', async (t) => {
  const fs = { read: ['data/in'], write: [], deny: ['secrets/deep/key'] }
  for (const path of ['data/in/file', 'secrets/deep/key']) {
    mkdirSync(dirname(`${ws}/${path}`), { recursive: true })
    writeFileSync(`${ws}/${path}`, 'SECRET\n')
    for (let at = path; at !== '.'; at = dirname(at)) give(`${ws}/${at}`)
  }
  await sh(
    place,
    'mv data d2; mkdir data; ln -s / data/in; mv secrets/deep secrets/d2; mv secrets s2; : > free',
    { fs },
  )
  t.ok(lstatSync(`${ws}/free`).isFile(), 'the command ran, and may write')
  t.ok(lstatSync(`${ws}/data/in`).isDirectory(), 'what is read next time is what was named')
  const next = await sh(
    place,
    'cat secrets/deep/key s2/deep/key secrets/d2/key; cat data/in/file',
    {
      fs,
    },
  )
  t.equal(next.stdout, 'SECRET\n', 'what is denied stays so; what is granted is there')
})

t.test('local settings of an agent are as closed as the shared ones', async (t) => {
  mkdirSync(`${ws}/.claude`)
  writeFileSync(`${ws}/.claude/settings.local.json`, '{}')
  for (const name of ['.claude', '.claude/settings.local.json']) give(`${ws}/${name}`)
  await sh(place, 'echo evil > .claude/settings.local.json; rm -f .claude/settings.local.json')
  t.equal(readFileSync(`${ws}/.claude/settings.local.json`, 'utf8'), '{}')
})

t.test('a link put in the place of hooks while a launch makes it', (t) => {
  const victim = `${place.root}/of-root`
  const staging = `${place.root}/stage-of-one`
  writeFileSync(victim, '')
  mkdirSync(staging)
  // The racer wins: the link is there when mkdir returns.
  const racer = String.raw`BEGIN { *CORE::GLOBAL::mkdir = sub {
    my $done = CORE::mkdir($_[0], $_[1]);
    if ($_[0] =~ m{/hooks$}) { rename $_[0], "$_[0]-moved"; symlink '${victim}', $_[0] or die }
    return $done;
  } }`
  const operations = ['staging', staging, 'stage', '0', ws, 'rw', 'plain']
  const ids = [String(caller.uid), String(caller.gid)]
  const steps = [...['0', '0'], ...operations, ...['make-directory', '0', 'hooks', ...ids]]
  writeFileSync(`${place.root}/steps`, [...steps, 'exec', '1', '/bin/true', ''].join('\0'))
  const { output } = spawnSync(
    tool('perl'),
    [
      ...['-e', racer + outerScript, '--', '3', callsText(parseMachine(process.arch)), '0'],
      ...[String(process.pid), '4'],
    ],
    {
      stdio: ['ignore', 'ignore', 'inherit', 'pipe', openSync(`${place.root}/steps`, 'r')],
      ...{ encoding: 'utf8', timeout: 30_000 },
    },
  )
  t.match(output[3], /^error hooks changed during the launch/)
  t.ok(lstatSync(`${ws}/hooks`).isSymbolicLink(), 'the racer won')
  t.equal(lstatSync(victim).uid, 0, 'root gives nothing away')
  t.end()
})

function give(path: string): void {
  chownSync(path, caller.uid, caller.gid)
}
