/** Writes the daemons that agentjail makes into a directory, for `plutil -lint`: `node dist/test/macos/real-plists.js DIR`. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseJailName } from '../../lib/plan/names.js'
import { launchdServices, renderDenyDaemon } from '../../lib/service/launchd.js'
import { FakeMac } from './model/system.js'

const [, , directory = '.'] = process.argv
const spec = {
  ...{ name: parseJailName('check'), policies: ['openai'], cwd: '/', logDir: '/var/log/agentjail' },
  // What XML would take for its own.
  command: ['/usr/bin/true', '<&>"\''] as const,
  ...{ node: '/usr/local/bin/node', program: '/a.cjs', credentials: new Map<string, string>() },
}
const service = launchdServices(new FakeMac(), spec.logDir).render(spec)
writeFileSync(join(directory, 'service.plist'), service.text)
writeFileSync(join(directory, 'deny.plist'), renderDenyDaemon(spec.node, spec.program).text)
