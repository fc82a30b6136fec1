/** A running jail's policy, changed: opened and closed by name, edited and read anew, refused. */
import type { Test } from 'tap'
import { nothingLeft, silence, type Host } from './host.js'

export async function allowAndDeny(t: Test, host: Host): Promise<void> {
  const jail = host.start(...host.prefix, '--', ...host.restless)
  await jail.until(/started/)
  const name = 'shared-a.example'
  t.equal(await host.mayConnect(name), false, 'not granted')
  t.match(await host.agentjail('allow', 'faults', name), { code: 0, stdout: /shared-a\.example/ })
  t.equal(await host.mayConnect(name), true, 'allowed while it runs')
  t.match(await host.agentjail('allow', 'faults', name), { stdout: /granted already/ })
  t.match(await host.agentjail('deny', 'faults', name), { code: 0 }, jail.stderr())
  t.equal(await host.mayConnect(name), false, 'denied again')
  t.ok(await host.granted(), 'what was granted from the start still is')
  for (const wrong of ['*.com', 'no name', '']) {
    const { code, stderr } = await host.agentjail('allow', 'faults', wrong)
    t.equal(code, 2, `${wrong}: ${stderr}`)
  }
  t.match(await host.agentjail('allow', 'nobody', name), { code: 2, stderr: /no jail nobody/ })
  t.equal(await host.mayConnect(name), false, 'what was refused changed nothing')
  t.match(await host.agentjail('stop', 'faults'), { code: 0 })
  await jail.ended
  await silence(t, host, 'allow and deny')
  await nothingLeft(t, host, 'allow and deny')
}
