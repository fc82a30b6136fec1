/** The part of `agentjail_uid` that all jails share, and the names of the parts of each. Pure. */
import type { UidRange } from '../types.js'
import {
  accept,
  ct,
  differ,
  drop,
  equal,
  field,
  goto,
  meta,
  prohibit,
  resetTcp,
  vmap,
} from './ast.js'
import type { NamedSet, Table } from './ast.js'
import { original, othersFirst, reply, tableName, uids } from './tables.js'

/**
 * The part of `agentjail_uid` that stands however many jails there are.
 * @param groups as of `inwardTable`, which takes off what is marked here of what comes in; undefined: there is none.
 */
export function uidBase(range: UidRange, groups?: string): Table {
  const map = (name: string, type: 'uid' | 'mark'): NamedSet => ({
    kind: 'map',
    name,
    type: [type],
    to: 'verdict',
    flags: [],
  })
  const gates = (name: string): NamedSet => ({
    kind: 'set',
    name,
    type: ['inet_service'],
    flags: [],
  })
  const hook = (name: 'output' | 'input', prio: number) =>
    ({ type: 'filter', hook: name, prio, policy: 'accept' }) as const
  return {
    name: tableName.uid,
    owner: false,
    counters: [],
    sets: [
      map('jails', 'uid'),
      map('flows', 'mark'),
      map('answers', 'mark'),
      map('redirects', 'uid'),
      gates('gates_tcp'),
      gates('gates_udp'),
    ],
    elements: [],
    chains: [
      // Before -100, where docker leads a container's DNS (127.0.0.11) to a server of its own; at one and the same
      // priority, who came last would be first.
      { name: 'to_gate', hook: { type: 'nat', hook: 'output', prio: -110, policy: 'accept' } },
      { name: 'output', hook: hook('output', 0) },
      ...(groups === undefined ? [] : [{ name: 'input', hook: hook('input', 0) }]),
      { name: 'others' },
      { name: 'held' },
      { name: 'orphans' },
    ],
    rules: [
      {
        chain: 'to_gate',
        expr: [equal(meta('skuid'), uids(range)), vmap(meta('skuid'), 'redirects')],
      },
      // Every other user pays comparisons only, whatever the number of jails.
      ...othersFirst(range, 'output', goto('others')),
      { chain: 'output', expr: [equal(meta('skuid'), uids(range)), goto('held')] },
      { chain: 'output', expr: [original, equal(ct('mark'), uids(range)), goto('orphans')] },
      { chain: 'output', expr: [goto('others')] },
      // A jail's gate is for that jail: nobody else may connect to it.
      { chain: 'others', expr: [differ(meta('oifname'), 'lo'), accept] },
      { chain: 'others', expr: [equal(field('tcp', 'dport'), '@gates_tcp'), resetTcp] },
      { chain: 'others', expr: [equal(field('udp', 'dport'), '@gates_udp'), prohibit] },
      { chain: 'held', expr: [vmap(meta('skuid'), 'jails')] },
      { chain: 'held', expr: [equal(meta('l4proto'), 'tcp'), resetTcp] },
      { chain: 'held', expr: [prohibit] },
      { chain: 'orphans', expr: [vmap(ct('mark'), 'flows')] },
      { chain: 'orphans', expr: [drop] },
      // Who opened the flow is in its mark; to whom it went is asked again of the jail's own chain.
      ...(groups === undefined
        ? []
        : [
            {
              chain: 'input',
              expr: [
                equal(meta('l4proto'), 'udp'),
                reply,
                equal(ct('mark'), uids(range)),
                vmap(ct('mark'), 'answers'),
              ],
            },
          ]),
    ],
  }
}

/** Names within `agentjail_uid` of one jail's parts. Hyphens become underscores, which jail names cannot hold. */
export function jailNames(jail: string) {
  const id = jail.replaceAll('-', '_')
  return {
    chain: `jail_${id}`,
    nat: `nat_${id}`,
    inward: `in_${id}`,
    overflow: `overflow_${id}`,
    suffix: `_${id}`,
    flows: (family: 4 | 6) => `live${family}_${id}`,
    pins: (family: 4 | 6, grant: string) => `pin${family}_${id}_${grant}`,
  }
}
