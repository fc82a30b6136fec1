/** What the tests of the pf backend start from: a modelled Mac, a jail on it, and pf's answer to a connection. */
import { pfBackend } from '../../lib/backend/pf/index.js'
import type { Backend, GatePort, NetworkHold } from '../../lib/backend/types.js'
import type { Policy } from '../../lib/policy/types.js'
import { play, type Flow, type Outcome } from './flows.js'
import { FakeMac } from './model/system.js'
import { worldOf } from './model/world.js'
import { cidrGrant, grant, policy } from './policies.js'
import { networkOf, reserved, selfAddresses, uidOf } from './rulesets.js'

const proxy: GatePort[] = [{ proto: 'tcp', port: 49_100, gatePort: 49_100, role: 'proxy' }]
export const mail = policy('mail', {
  grants: [
    grant('g1', 'smtp.example.com', { inspect: 'none', ports: [{ first: 465, last: 465 }] }),
  ],
  cidrs: [cidrGrant('c1', '198.51.100.0/24', 5432)],
})
export const server = '203.0.113.25'

export function setUp(mac = new FakeMac()): { mac: FakeMac; backend: Backend; warnings: string[] } {
  const warnings: string[] = []
  const backend = pfBackend({
    system: mac,
    stateDir: '/var/run/agentjail',
    range: reserved,
    ownAddresses: () => selfAddresses,
    warn: (text) => warnings.push(text),
  })
  return { mac, backend, warnings }
}

export async function openJail(backend: Backend, policy: Policy, index = 0): Promise<NetworkHold> {
  const hold = await backend.open(networkOf(policy, index))
  await hold.connectGate(proxy.map((port) => ({ ...port, gatePort: port.gatePort + index })))
  return hold
}

export function tcp(mac: FakeMac, to: string, port: number, index = 0): Outcome {
  const flow: Flow = { kind: 'connect', client: uidOf(index), from: '192.168.1.10', to, port }
  return play(worldOf(mac.state), flow)
}

/** What must be as before: pf, files, interfaces. */
export function snapshot({ state }: FakeMac): string {
  const { enabled, tokens, main, anchors, tables } = state.pf
  const { 'com.apple/agentjail': own = '', ...others } = anchors
  return JSON.stringify({
    enabled,
    tokens,
    main,
    own,
    others,
    tables,
    files: Object.keys(state.files),
    interfaces: state.interfaces,
  })
}
