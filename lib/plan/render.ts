/**
 * A plan as a person reads it (`agentjail plan`, `run --dry-run`). Pure.
 */
import type { RenderedPlan } from './types.js'
import type { Grant, PortRange } from '../policy/types.js'
import { shellWord } from '../shell-word.js'

/** Text, newline at the end. */
export function renderPlan({ plan, rules }: RenderedPlan): string {
  const { account, launch, policy } = plan
  const env = [...launch.env.keys()].sort()
  const sections: (readonly [string, readonly string[]])[] = [
    [
      'jail',
      [`${plan.jail} (policy ${policy.name}, from ${policy.source}; isolation ${plan.isolation})`],
    ],
    [
      'account',
      [
        `${account.name} uid ${account.uid} gid ${account.gid} home ${account.home} (${account.exists ? 'exists' : 'will be made: system account, locked, expired, no shell'})`,
      ],
    ],
    [
      'may reach',
      policy.grants
        .map(renderGrant)
        .concat(
          policy.cidrs.map(
            (grant) =>
              `${grant.id} ${grant.cidr.address}/${grant.cidr.prefix} ${grant.proto} ${renderPorts(grant.ports)}`,
          ),
        ),
    ],
    [
      'dns',
      [
        'every query is answered by the gate; only granted names; upstream: ' +
          upstreams(plan.gate.dns.upstream),
      ],
    ],
    [
      'launch',
      [
        launch.command.map(shellWord).join(' '),
        `in ${launch.cwd}`,
        `environment: ${env.join(' ')}`,
      ],
    ],
    ...rules.map(
      ({ title, format, text }) =>
        [`rules (${format}): ${title}`, text.trimEnd().split('\n')] as const,
    ),
  ]
  return sections
    .map(([title, lines]) => `${title}\n${lines.map((line) => `  ${line}`).join('\n')}\n`)
    .join('\n')
}

/** Maps as objects, secrets absent (a plan has none). */
export function planToJson({ plan, rules }: RenderedPlan): unknown {
  const { policy, gate, launch, ...rest } = plan
  return {
    ...rest,
    policy: { name: policy.name, source: policy.source },
    gate: { ...gate, credentials: gate.credentials.map(({ id, mode }) => ({ id, mode })) },
    launch: { ...launch, env: Object.fromEntries(launch.env) },
    rules,
  }
}

function renderGrant(grant: Grant): string {
  const host =
    grant.host.kind === 'exact'
      ? grant.host.name
      : `${grant.host.kind === 'one' ? '*' : '**'}.${grant.host.name}`
  const extra = grant.credential === undefined ? '' : `, key ${grant.credential}`
  return `${grant.id} ${host} ${grant.proto} ${renderPorts(grant.ports)} (inspect ${grant.inspect}${extra})`
}

function renderPorts(ports: readonly PortRange[]): string {
  return ports
    .map(({ first, last }) => (first === last ? String(first) : `${first}-${last}`))
    .join(',')
}

function upstreams(list: readonly { address: string; port: number }[]): string {
  return list.length === 0
    ? "the host's own"
    : list.map(({ address, port }) => `${address} port ${port}`).join(', ')
}
