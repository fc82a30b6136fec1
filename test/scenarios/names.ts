/** Names of jails: held, joined, stopped; asked for by several at one instant. */
import type { Test } from 'tap'
import { eventually, nothingLeft, silence, type Host, type Started } from './host.js'

const joining = ['run', '--join', 'faults', '--'] as const

export async function joinAndStop(t: Test, host: Host): Promise<void> {
  const jail = host.start(...host.prefix, '--', ...host.restless)
  await jail.until(/started/)
  const taken = await host.agentjail(...host.prefix, '--', 'true')
  t.match(taken, { code: 125, stderr: /jail faults is running already: pid \d+, since .*--join/ })
  t.match(await host.agentjail('account', 'remove', 'faults'), {
    code: 125,
    stderr: /running already: .*; end it first: agentjail stop faults\n$/,
  })
  const other = await host.agentjail(...joining, 'sh', '-c', 'id -u; exit 7')
  const uid = String(await host.uid())
  t.match(other, { code: 7, stdout: `${uid}\n` }, 'same user, own exit code')
  t.ok((await host.jailed()) > 0, 'the jail goes on after it')
  const second = host.start(...joining, 'sh', '-c', 'echo in; sleep 60')
  await second.until(/in/)
  t.match(await host.agentjail('stop', 'faults'), { code: 0, stdout: 'faults: stopped\n' })
  t.equal((await second.ended).signal, 'SIGKILL', "the jail's end is its end")
  t.equal((await jail.ended).signal, 'SIGTERM')
  t.match(await host.agentjail('stop', 'faults'), { code: 2, stderr: /no jail faults/ })
  await nothingLeft(t, host, 'join and stop')
  await silence(t, host, 'join and stop')
}

/** One of them runs; the others are told who. */
export async function sameNameAtOnce(t: Test, host: Host): Promise<void> {
  const words = [...host.prefix, '--', 'sh', '-c', 'echo started; exec sleep 300'] as const
  const all = Array.from({ length: 4 }, () => host.start(...words))
  const running = (): Started[] => all.filter((one) => one.stdout().includes('started'))
  t.ok(await eventually(() => running().length > 0, 120), 'one runs')
  const [winner] = running()
  const losers = all.filter((one) => one !== winner)
  for (const { ended } of losers) {
    const { code, stdout, stderr } = await ended
    t.match({ code, stderr }, { code: 125, stderr: /jail faults is (running already|just being)/ })
    t.equal(stdout, '', 'its command did not run')
  }
  t.equal(running().length, 1)
  t.match(await host.agentjail('stop', 'faults'), { code: 0 })
  await winner?.ended
  await nothingLeft(t, host, 'the same name at once')
}

/** Names that were never used: each gets a user of its own, whoever asks at the same instant. */
export async function newNamesAtOnce(t: Test, host: Host): Promise<void> {
  const names = ['faults-a', 'faults-b', 'faults-c']
  const words = ['--', 'sh', '-c', 'id -u'] as const
  const all = names.map((name) => host.start(...host.prefix, '--name', name, ...words))
  const uids = new Set<string>()
  for (const { ended } of all) {
    const { code, stdout, stderr } = await ended
    t.equal(code, 0, stderr)
    uids.add(stdout.trim())
  }
  t.equal(uids.size, names.length, 'no user is shared')
  for (const name of names)
    t.match(await host.agentjail('account', 'remove', name), { code: 0 }, `${name} removed`)
  await nothingLeft(t, host, 'new names at once')
}
