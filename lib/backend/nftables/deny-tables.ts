/** The tables that deny: the static deny, the guard, and the deny of what comes in. Pure. */
import type { UidRange } from '../types.js'
import { accept, ct, drop, equal, meta, prohibit, resetTcp, setMark, socketGroup } from './ast.js'
import type { Statement, Table } from './ast.js'
import { original, othersFirst, passMark, tableName, uids } from './tables.js'

/** Runs after `agentjail_uid` (0) has marked. */
const denyPriority = 10
/** The last to ask for the mark. */
const guardPriority = 12

/**
 * The deny of the whole reserved range; loaded at boot.
 * @param extent `uids`: what sockets of these uids send; enough where no jail is on the host's network, and the kernel
 * need not track connections for it. `flows`: also what is left of a flow whose socket is closed.
 */
export function staticTable(range: UidRange, extent: 'uids' | 'flows' = 'uids'): Table {
  return denyTable(range, { name: tableName.static, owner: false, extent, passed: [accept] })
}

/** The same deny, in a table that a flush of the ruleset leaves alone while its owner lives. Takes the mark off. */
export function guardTable(range: UidRange): Table {
  const passed = [setMark(0), accept]
  return denyTable(range, { name: tableName.guard, owner: true, extent: 'flows', passed })
}

interface Deny {
  readonly name: string
  readonly owner: boolean
  readonly extent: 'uids' | 'flows'
  /** What becomes of a packet with the mark. */
  readonly passed: readonly Statement[]
}

function denyTable(range: UidRange, { name, owner, extent, passed }: Deny): Table {
  const chain = 'output'
  const prio = owner ? guardPriority : denyPriority
  const held = equal(meta('skuid'), uids(range))
  return {
    name,
    owner,
    counters: [],
    sets: [],
    elements: [],
    chains: [{ name: chain, hook: { type: 'filter', hook: 'output', prio, policy: 'accept' } }],
    rules: [
      ...othersFirst(range, chain, accept),
      { chain, expr: [equal(meta('mark'), passMark), ...passed] },
      // TCP by reset: with an ICMP refusal alone a connect over IPv6 waits for its time-out.
      { chain, expr: [held, equal(meta('l4proto'), 'tcp'), resetTcp] },
      { chain, expr: [held, prohibit] },
      // Queued data of a socket that its process has closed has no uid any more; its flow still has the jail's mark.
      ...(extent === 'uids'
        ? []
        : [{ chain, expr: [original, equal(ct('mark'), uids(range)), drop] }]),
    ],
  }
}

/** @param groups path below /sys/fs/cgroup of the group that holds those of all jails: a child of the root. */
export function inwardTable(groups: string): Table {
  const hook = { type: 'filter', hook: 'input', prio: denyPriority, policy: 'accept' } as const
  return {
    name: tableName.inward,
    owner: true,
    counters: [],
    sets: [],
    elements: [],
    chains: [{ name: 'input', hook }],
    rules: [
      { chain: 'input', expr: [equal(meta('mark'), passMark), setMark(0), accept] },
      {
        chain: 'input',
        expr: [equal(meta('l4proto'), 'udp'), equal(socketGroup(1), { path: groups }), drop],
      },
    ],
  }
}
