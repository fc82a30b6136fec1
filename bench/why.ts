/** Why a bar is not met where it is not, and what was tried: the words behind it, in short; docs/performance.md has more. */

const reasons: readonly (readonly [RegExp, string])[] = [
  [
    /^start of `true` by agentjail( --isolation uid)?, over|^first instruction/,
    'Node itself is up after 16 ms and ends in 3.5; its modules and the bundle take 7, what is planned and checked 10, and the launch (two perls, bubblewrap, which reads the table of mounts once for each of 20 mounts) 11. Tried: one fork server in place of four spawns, the deny compared by its bytes, a code cache of only what a run uses, a start-up snapshot. In isolation uid the rules of the host come on top: deny, guard and the jail\u2019s own, added and removed under a lock.',
  ],
  [
    /another user, any number of jails in isolation namespace/,
    'one chain that is empty costs one to three hundredths (first row of the table), which is all that the bar leaves; the one comparison by which others leave costs the rest.',
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
    'entries, accounts and processes of other jails cost next to nothing; what is left is the company of running jails, which collect garbage some seconds after their start. Tried: the kernel asked for a uid\u2019s processes in place of /proc, idle jails that look at counters in place of rules.',
  ],
  [
    /^a policy of/,
    'the policy is read by an interpreter that has not warmed up, and the collection of garbage takes half. Tried: long lists kept out of the YAML parser, which left a third.',
  ],
  [
    /^SNI gate/,
    'both proxies pass the same bytes through one thread of Node; with client, gate and server on two cores the third process waits, and one run has 1.9 where another has 2.2. Tried: splice(2), larger buffers, fewer objects and calls a connection.',
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
