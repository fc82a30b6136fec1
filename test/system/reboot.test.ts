/**
 * A power loss and the boot after it: every process of the host killed at once, the firewall empty, another boot's id;
 * /run/agentjail gone, as on a tmpfs, or left as it was, as where /run is on a disk.
 * Judge: the capture, while a process of the jail's user sends and connects as fast as it can; the kernel's own lists.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { damage, firewall } from '../lab/firewall.js'
import type { Lab } from '../lab/lab.js'
import {
  cwd,
  granted,
  hammer,
  isolations,
  knocks,
  nothingLeft,
  openBench,
  silence,
  start,
  toEvil,
  type Bench,
} from './faults-kit.js'

const unit = '/etc/systemd/system/agentjail-deny.service'
/** Stands over the kernel's, which only a real boot changes. */
const bootId = '/etc/boot_id'
const state = '/run/agentjail'

const must = async (lab: Lab, argv: readonly string[]) => {
  const { code, stdout, stderr } = await lab.run(argv, { timeout: 60_000 })
  if (code !== 0) throw new Error(`${argv.join(' ')}: ${stderr}`)
  return stdout
}

/** A process of the jail's user, which no jail holds: what an old job of cron's would be. */
const stray = async (lab: Lab, uid: string, what: readonly string[]) => {
  const argv = ['setpriv', `--reuid=${uid}`, '--clear-groups', ...what]
  const process = lab.spawn(argv, { cwd: '/', timeout: 120_000 })
  await process.until(/started/)
  return process
}

const powerLoss = async (lab: Lab) => {
  // All but the lab's PID 1 and the shell that says so.
  await lab.run(['sh', '-c', 'kill -9 -1'])
  await must(lab, damage.everything)
  if (firewall !== 'nftables') await must(lab, ['ipset', 'destroy'])
  lab.writeFile(bootId, `${randomUUID()}\n`)
}

/** Each process that a file of the last boot names is now another's number and start time: only the boot tells. */
const givenAgain = async (lab: Lab, pid: string) => {
  const stat = lab.readFile(`/proc/${pid}/stat`)
  const start = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  const files = (await must(lab, ['find', state, '-name', '*.json'])).trim().split('\n')
  return files.filter((path) => {
    const text = lab.readFile(path)
    const again = text.replace(/"pid":\d+,"start":\d+/g, `"pid":${pid},"start":${start}`)
    lab.writeFile(path, again, 0o600)
    return again !== text
  })
}

/** What the boot's unit starts, word for word. */
const boot = async (lab: Lab) => {
  const starts = lab.readFile(unit).matchAll(/^ExecStart=(.*)$/gm)
  for (const [, line = ''] of starts) await must(lab, line.split(' '))
}

const reboot = async (t: Test, bench: Bench, run: 'gone' | 'left') => {
  const { lab, isolation, prefix } = bench
  const acls = () => must(lab, ['getfacl', '-R', '-p', '-n', cwd])
  const aclsBefore = await acls()
  const uid = (await must(lab, ['id', '-u', 'aj-faults'])).trim()
  const jail = await start(bench)
  t.match((await granted(lab)).stdout, /path \/ok/, 'before: what is granted works')
  await powerLoss(lab)
  await jail.ended
  const bystander = lab.spawn(['sh', '-c', 'echo $$; exec sleep 300'], { timeout: 300_000 })
  const pid = (await bystander.until(/\d+\n/)).trim()
  if (run === 'gone') await must(lab, ['rm', '-r', state])
  else {
    const named = (await givenAgain(lab, pid)).join(' ')
    t.match(named, /jails\/faults\.json/, 'its entry is left')
    if (isolation === 'uid' && firewall === 'nftables') t.match(named, /guard\.json/)
  }

  const unheld = await stray(lab, uid, knocks)
  await sleep(200)
  unheld.kill('SIGKILL')
  await unheld.ended
  t.not((await lab.capture.packets(toEvil)).length, 0, 'without the unit that user is free')

  await boot(lab)
  await lab.capture.clear()
  const held = await stray(lab, uid, hammer)
  await sleep(700)
  await silence(t, lab, 'the unit alone')
  held.kill('SIGKILL')
  await held.ended
  const again = await lab.agentjail(
    [...prefix, '--', 'curl', '-sS', '--max-time', '10', 'https://plain.example/ok'],
    { cwd, timeout: 60_000 },
  )
  t.match(again.stdout, /path \/ok/, `the name runs again: ${again.stderr}`)
  const { code, stdout, stderr } = await lab.agentjail(['gc'], { timeout: 30_000 })
  t.equal(code, 0, stderr)
  t.equal(stdout + stderr, '', 'gc finds nothing more')
  t.ok(bystander.kill('SIGTERM'), 'no process of this boot was taken for one of the last')
  t.equal((await bystander.ended).signal, 'SIGTERM')
  t.equal(await acls(), aclsBefore, 'the workspace is whose it was')
  await nothingLeft(t, lab, run)
  await silence(t, lab, run)
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 180_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const bench = await openBench(t, isolation)
    const { lab } = bench
    lab.writeFile(bootId, `${randomUUID()}\n`)
    await must(lab, ['mount', '--bind', bootId, '/proc/sys/kernel/random/boot_id'])
    await must(lab, ['agentjail', 'setup'])
    await lab.remember()
    for (const run of ['gone', 'left'] as const)
      await t.test(`/run/agentjail ${run}`, { timeout }, (t) => reboot(t, bench, run))
  })
}
