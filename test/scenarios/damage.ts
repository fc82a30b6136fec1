/** What other tools, a full disk and a careless hand do to a machine's firewall and state. */
import type { Test } from 'tap'
import { collect, eventually, nothingLeft, silence, type Host } from './host.js'

/** Rules that another tool takes away, replaces or switches off: noticed, restored, told, nothing out. */
export async function rulesDamaged(t: Test, host: Host): Promise<void> {
  const jail = host.start(...host.prefix, '--', ...host.restless)
  await jail.until(/started/)
  for (const [name, argv] of host.damages) {
    const seen = jail.stderr().length
    const { code, stderr } = await host.run(...argv)
    t.equal(code, 0, `${name}: ${stderr}`)
    const from = performance.now()
    const told = await eventually(() => jail.stderr().slice(seen).includes('have been restored'))
    t.ok(told, `${name}: restored and told`)
    t.comment(`${name}: told after ${String(Math.round(performance.now() - from))} ms`)
    t.ok(await host.granted(), `${name}: what is granted works`)
    t.notOk(await host.leaks(await host.uid()), `${name}: what is not granted does not`)
    if (host.hasSecondLine) await silence(t, host, name)
    else await host.leaked()
  }
  jail.kill('SIGTERM')
  await jail.ended
  await nothingLeft(t, host, 'damaged rules')
}

/** What agentjail cannot write or open: each refused before the launch in one line, or told, and nothing left. */
export async function noRoom(t: Test, host: Host): Promise<void> {
  const { stateDir, logDir, prefix } = host
  const over = async (dir: string, options: string, fill = 'true') => {
    const shell = `mount -t tmpfs -o ${options} tmpfs ${dir} && ${fill}`
    const { code, stderr } = await host.run('sh', '-c', shell)
    t.equal(code, 0, stderr)
    const result = await host.agentjail(...prefix, '--', 'true')
    await host.run('umount', dir)
    return result
  }
  const fill = (dir: string) => `head -c 9999 /dev/zero > ${dir}/x || true`
  const refused = {
    code: 125,
    stderr: new RegExp(`^agentjail: cannot (make|write) ${stateDir}`, 'm'),
  }
  t.match(await over(stateDir, 'ro'), refused, 'state directory read-only')
  t.match(await over(stateDir, 'size=4k', fill(stateDir)), refused, 'state directory full')
  const log = await over(logDir, 'size=4k,mode=700', fill(logDir))
  t.equal(log.code, 0, `log full: the command runs: ${log.stderr}`)
  await nothingLeft(t, host, 'no room')
  for (const files of [22, 26, 30, 36, 44]) {
    const words = ['agentjail', ...prefix, '--', 'true'].join(' ')
    const result = await host.run('sh', '-c', `ulimit -n ${String(files)}; exec ${words}`)
    const name = `${String(files)} descriptors`
    t.ok(
      result.code === 0 || result.code === 125 || result.signal !== null,
      `${name}: ${String(result.code)} ${result.stderr.slice(0, 200)}`,
    )
    t.notMatch(result.stderr, /\n\s+at /, `${name}: no stack`)
    t.ok(await eventually(async () => (await host.jailed()) === 0), `${name}: no process`)
  }
  await collect(t, host, 'descriptors')
  await nothingLeft(t, host, 'descriptors')
}

/** State files that are not as agentjail wrote them: refused with the way out; the user stays denied meanwhile. */
export async function stateDamaged(t: Test, host: Host): Promise<void> {
  const own = `${host.stateDir}/jails/faults.json`
  const uid = await host.uid()
  const true_ = [...host.prefix, '--', 'true'] as const
  for (const [name, text] of [
    ['corrupted', '\u0000\u0001nonsense'],
    ['truncated', '{"v":1,"name":"fau'],
    ['older', `{"v":0,"name":"faults","uid":${String(uid)}}`],
    ['empty', ''],
  ] as const) {
    await host.write(own, text)
    const refused = await host.agentjail(...true_)
    t.match(refused, { code: 125, stderr: /state file .*faults\.json.*agentjail gc/ }, name)
    t.notOk(await host.leaks(uid), `${name}: the user stays denied`)
    await collect(t, host, name)
    t.equal((await host.agentjail(...true_)).code, 0, `${name}: repaired`)
    for (const path of host.sharedState) {
      await host.write(path, text)
      const shared = await host.agentjail(...true_)
      t.match(shared, { code: 125, stderr: /state file .*agentjail gc/ }, `${path} ${name}`)
      t.notOk(await host.leaks(uid), `${path} ${name}: the user stays denied`)
      await host.run('rm', path)
      await collect(t, host, `${path} ${name}`)
      t.equal((await host.agentjail(...true_)).code, 0, `${path} ${name}: repaired`)
      t.notOk(await host.leaks(uid), `${path} ${name}: and denies`)
    }
  }
  await silence(t, host, 'damaged state')
  await nothingLeft(t, host, 'damaged state')
}
