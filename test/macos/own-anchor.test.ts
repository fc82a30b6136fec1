/** An anchor of one's own, by the machine's settings, on a modelled Mac. */
import t from 'tap'
import { MacRoot } from './mac-root.js'

t.setTimeout(600_000)

t.test('pfAnchor: the rules stand there, and nowhere else', async (t) => {
  const mac = await MacRoot.open()
  t.teardown(() => {
    mac.close()
  })
  const { pf } = mac.state
  await mac.run(['/bin/mkdir', '-p', '/etc/agentjail'])
  await mac.write('/etc/agentjail/config.yaml', 'pfAnchor: agentjail\n')
  t.match(await mac.jail('setup'), {
    code: 125,
    stderr: /pf's main ruleset has no line: anchor "agentjail"/,
  })
  pf.main += 'anchor "agentjail" all\n'
  t.match(await mac.jail('setup'), { code: 0 })
  t.match(pf.anchors['agentjail'], /aj:base:deny-out-tcp/)
  t.equal(pf.anchors['com.apple/agentjail'], undefined)
  t.match(await mac.jail('run', '-q', '-p', 'openai', '--', 'echo', 'ran'), { stdout: 'ran\n' })
  t.match(await mac.jail('uninstall'), { code: 0 })
  t.notMatch(pf.anchors['agentjail'], /aj:/)
})
