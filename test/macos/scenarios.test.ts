/** The scenarios that Linux passes in the lab, on the modelled Mac. */
import t from 'tap'
import { allowAndDeny } from '../scenarios/change.js'
import { noRoom, rulesDamaged, stateDamaged } from '../scenarios/damage.js'
import { joinAndStop, newNamesAtOnce, sameNameAtOnce } from '../scenarios/names.js'
import { openMacHost, type Scenario } from './mac-host.js'

t.setTimeout(780_000)
const host = await openMacHost()
t.teardown(() => {
  host.mac.close()
})
const only = process.env['AGENTJAIL_CASE']
const scenarios: Readonly<Record<string, Scenario>> = {
  'damaged rules': rulesDamaged,
  'no room, no descriptors': noRoom,
  'damaged state files': stateDamaged,
  'join and stop': joinAndStop,
  'the same name at one instant': sameNameAtOnce,
  'new names at one instant': newNamesAtOnce,
  'allow and deny': allowAndDeny,
}
for (const [name, scenario] of Object.entries(scenarios))
  if (only === undefined || name.includes(only)) t.test(name, (t) => scenario(t, host))
