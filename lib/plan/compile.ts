/**
 * Policy + facts + request to plan. Pure; the straight path of everything `run` decides.
 */
import type { GatePolicy, ResolvedCredential } from '../gate/protocol.js'
import type { Policy } from '../policy/types.js'
import { jailEnvironment } from './environment.js'
import { networkPlan } from './network.js'
import type { Facts, Plan, RunRequest } from './types.js'

/** The whole plan; `credentials` are those whose value was found (none for `plan` and `--dry-run`). */
export function compilePlan(
  policy: Policy,
  facts: Facts,
  request: RunRequest,
  credentials: readonly ResolvedCredential[] = [],
): Plan {
  const { account, settings } = facts
  const network = networkPlan(policy, {
    jail: request.jail,
    uid: account.uid,
    range: settings.uidRange,
    isolation: request.isolation,
    groups: facts.groups,
  })
  return {
    jail: request.jail,
    policy,
    isolation: request.isolation,
    policies: request.policies,
    account,
    network,
    gate: gatePolicy(policy, credentials),
    launch: {
      jail: request.jail,
      user: account,
      command: request.command,
      cwd: request.cwd,
      env: jailEnvironment(policy, facts),
      isolation: request.isolation,
      ...(network.groups === undefined ? {} : { group: `${network.groups}/${request.jail}` }),
      fs: policy.fs,
      limits: policy.limits,
      userNamespaces: policy.userNamespaces,
      resolvConf: resolvConf(),
      hosts: hostsFile(facts.hostName),
      protect: facts.protect,
      caller: facts.caller,
      without: [],
    },
  }
}

/** Whether the gate makes a CA for the jail, which the command trusts from its start. */
export function wantsCa({
  grants,
  reportHttp,
}: Pick<GatePolicy, 'grants' | 'reportHttp'>): boolean {
  return reportHttp === true || grants.some(({ inspect }) => inspect === 'http')
}

/** What the gate enforces. */
export function gatePolicy(policy: Policy, credentials: readonly ResolvedCredential[]): GatePolicy {
  const { hosts, ...dns } = policy.dns
  const { egressBytes } = policy.limits
  return {
    grants: policy.grants,
    cidrs: policy.cidrs,
    denies: policy.denies,
    loopbackConnect: policy.loopback.connect,
    ipv6: policy.ipv6,
    report: policy.report,
    ...(policy.reportHttp === undefined ? {} : { reportHttp: policy.reportHttp }),
    dns: { ...dns, hosts: [...hosts] },
    credentials,
    ...(egressBytes === undefined ? {} : { egressBytes }),
  }
}

/** Whatever address is asked, the gate answers; an empty search list keeps names as they were asked. */
function resolvConf(): string {
  return 'nameserver 127.0.0.1\nsearch .\noptions edns0 timeout:3 attempts:2\n'
}

function hostsFile(hostName: string): string {
  return `127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 ${hostName}\n`
}
