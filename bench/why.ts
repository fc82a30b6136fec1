/** Why a bar is not met where it is not, and what was tried: the words behind it, in short; docs/performance.md has more. */

const reasons: readonly (readonly [RegExp, string])[] = [
  [
    /^start of `true` by agentjail( --isolation uid)?, over|^first instruction/,
    'Node itself is up after 17 ms and ends in 4; of the rest, four spawned programs, each 1 to 2.5 ms of the warden, and the launch (two perls, bubblewrap, which reads the table of mounts once for each of 30 mounts), 14 ms if the cores were free. Tried: a code cache of only what a run uses, a start-up snapshot, fewer modules of Node, the first step started before the policy is read. In isolation uid the rules of the host come on top: deny, guard and the jail\u2019s own, added and removed under a lock.',
  ],
  [
    /another user, any number of jails in isolation namespace/,
    'one chain that is empty costs two to three hundredths of a packet on loopback (first row of the table), which is all that the bar leaves; the one comparison by which others leave costs the rest.',
  ],
  [
    /another user with 1,000 jails in isolation uid/,
    'the redirect to the gate and the deny by flow need tracked connections, and that alone costs others most of it (row of the empty chains that track); in each chain the first comparison lets others by. Tried: marks, devices, ranges, sets in place of the mask; fewer hooks.',
  ],
  [
    /a jailed user through a grant in the kernel/,
    'tracked connections as above, then the jail\u2019s own rules: its grants one after another, mark of the flow, mark of the packet. None can go: an accept of what is established would keep a withdrawn grant open.',
  ],
  [
    /^start with 1,000 jails/,
    'entries and accounts of other jails cost nothing; what grows is reading the state of every process on the machine twice, eleven a jail, and the company of running jails (each looks for denials twice a second: 30 of them keep a tenth of two cores busy). Tried: one buffer for all reads, which halved the first.',
  ],
  [
    /^a policy of/,
    'the policy is read by an interpreter that has not warmed up, and the collection of garbage takes half. Tried: long lists kept out of the YAML parser, which left a third.',
  ],
  [
    /^SNI gate/,
    'both proxies pass the same bytes through one thread of Node; with client, gate and server on two cores the third process waits. Tried: splice(2), larger buffers, fewer objects and calls a connection.',
  ],
  [
    /^HTTP gate: download/,
    'a proxy of bare Node that ends TLS on both sides and reads nothing (its row in the table) is the ceiling: a third of the time is the cipher, most of the rest Node\u2019s copies of each record of 16 KiB; of processor time for 256 MB it takes 460 ms, the gate 700, srt 1,000. What the gate adds is parsing and writing HTTP, which it will not do by code of its own. Tried: records gathered into one write, larger buffers, fewer objects.',
  ],
  [
    /^HTTP gate/,
    'both proxies end TLS on one thread of Node; with client, gate and server on two cores the third process waits. Tried: sessions resumed, connections to the host given on, fewer objects.',
  ],
]

/** Undefined: nobody has looked into it. */
export const whyNot = (bar: string): string | undefined =>
  reasons.find(([pattern]) => pattern.test(bar))?.[1]
