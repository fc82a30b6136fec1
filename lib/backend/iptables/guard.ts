/**
 * The guard where there is no nft: iptables has nothing that outlives a flush of all its tables, so the kernel's
 * nf_tables is told directly. A small perl owns the table; another reads it back.
 * Invariant: it comes after `filter`, which marks what a jail's grants let through, and before `security`, which takes the
 * mark off: without both, nothing of the range passes.
 */
import { JailError } from '../../errors.js'
import type { GuardMaker } from '../guard.js'
import type { System } from '../../system/types.js'
import type { UidRange } from '../types.js'
import type { Attribute } from './netlink.js'
import {
  ask,
  be32,
  change,
  decode,
  encodeAttributes,
  host32,
  messages,
  transaction,
} from './netlink.js'
import { flowRange, passMark } from './tables.js'

const table = 'agentjail_guard'
const chain = 'output'
/** Between `filter` (0) and `security` (50) of <linux/netfilter_ipv4.h>. */
const priority = 10

/** Numbers of <linux/netfilter/nf_tables.h>. */
const register = be32(1)
const verdictRegister = be32(0)
const [isEqual, isOther] = [be32(0), be32(1)]
const keys = { mark: 3, uid: 10, protocol: 16, ctDirection: 1, ctMark: 3 } as const
const tcp = Buffer.from([6])
const original = Buffer.from([0])

type Expression = readonly [name: string, data: readonly Attribute[]]

const meta = (key: number): Expression => [
  'meta',
  [
    [2, be32(key)],
    [1, register],
  ],
]
const connection = (key: number): Expression => [
  'ct',
  [
    [1, register],
    [2, be32(key)],
  ],
]
const compare = (how: Buffer, value: Buffer): Expression => [
  'cmp',
  [
    [1, register],
    [2, how],
    [3, [[1, value]]],
  ],
]
/** Compared byte by byte, so in the network's order. */
const within = (first: number, last: number): readonly Expression[] => [
  [
    'byteorder',
    [
      [1, register],
      [2, register],
      [3, be32(1)],
      [4, be32(4)],
      [5, be32(4)],
    ],
  ],
  [
    'range',
    [
      [1, register],
      [2, isEqual],
      [3, [[1, be32(first)]]],
      [4, [[1, be32(last)]]],
    ],
  ],
]
const unmarked = [meta(keys.mark), compare(isOther, host32(passMark))] as const
const reset: Expression = ['reject', [[1, be32(1)]]]
/** ICMPX, administratively prohibited. */
const prohibit: Expression = [
  'reject',
  [
    [1, be32(2)],
    [2, Buffer.from([3])],
  ],
]
const drop: Expression = [
  'immediate',
  [
    [1, verdictRegister],
    [2, [[2, [[1, be32(0)]]]]],
  ],
]

function ruleExpressions({ first, last }: UidRange): Buffer[] {
  const ofRange = [meta(keys.uid), ...within(first, last), ...unmarked]
  const flows = flowRange()
  const rules: (readonly Expression[])[] = [
    // TCP by reset: with an ICMP refusal alone a connect over IPv6 waits for its time-out.
    [...ofRange, meta(keys.protocol), compare(isEqual, tcp), reset],
    [...ofRange, prohibit],
    // Queued data of a socket that its process has closed has no uid any more; its flow still has the jail's mark.
    [
      connection(keys.ctDirection),
      compare(isEqual, original),
      connection(keys.ctMark),
      ...within(flows.first, flows.last),
      ...unmarked,
      drop,
    ],
  ]
  return rules.map((rule) =>
    encodeAttributes(
      rule.map(([name, data]): Attribute => [
        1,
        [
          [1, name],
          [2, data],
        ],
      ]),
    ),
  )
}

const hook: Attribute = [
  4,
  [
    // NF_INET_LOCAL_OUT
    [1, be32(3)],
    [2, be32(priority)],
  ],
]
const isOwned = be32(2)
const accept = be32(1)

/** The whole table, for its owner. */
export function guardBytes(range: UidRange): Buffer {
  return transaction([
    change(messages.newTable, [
      [1, table],
      [2, isOwned],
    ]),
    change(messages.newChain, [[1, table], [3, chain], hook, [5, accept], [7, 'filter']]),
    ...ruleExpressions(range).map((expressions) =>
      change(
        messages.newRule,
        [
          [1, table],
          [2, chain],
          [4, expressions],
        ],
        'append',
      ),
    ),
  ])
}

/** The same, for people, as nft would list it. */
export function renderGuard({ first, last }: UidRange): string {
  const mark = `meta mark != 0x${passMark.toString(16)}`
  const flows = flowRange()
  return [
    `table inet ${table} {`,
    '\tflags owner',
    `\tchain ${chain} {`,
    `\t\ttype filter hook output priority ${priority}; policy accept;`,
    `\t\tmeta skuid ${first}-${last} ${mark} meta l4proto tcp reject with tcp reset`,
    `\t\tmeta skuid ${first}-${last} ${mark} reject with icmpx admin-prohibited`,
    `\t\tct direction original ct mark 0x${flows.first.toString(16)}-0x${flows.last.toString(16)} ${mark} drop`,
    '\t}',
    '}',
    '',
  ].join('\n')
}

const questions: readonly Buffer[] = [
  ask(messages.getTable, [[1, table]], false),
  ask(
    messages.getChain,
    [
      [1, table],
      [3, chain],
    ],
    false,
  ),
  ask(
    messages.getRule,
    [
      [1, table],
      [2, chain],
    ],
    true,
  ),
]

/** What the kernel answered to `questions`, compared with what `guardBytes` made. */
export function judgeGuard(
  range: UidRange,
  answers: readonly Buffer[],
): 'right' | 'other' | 'absent' {
  const known = answers.flatMap((message) => decode(message) ?? [])
  const of = (type: number): ReadonlyMap<number, Buffer>[] =>
    known.filter((answer) => answer.type === type).map(({ attributes }) => attributes)
  const [found] = of(messages.newTable)
  if (found === undefined) return 'absent'
  const [hooked] = of(messages.newChain)
  const rules = of(messages.newRule).map((attributes) => attributes.get(4))
  const wanted = ruleExpressions(range)
  const isWhole =
    found.get(2)?.equals(isOwned) === true &&
    hooked?.get(4)?.equals(encodeAttributes(hook[1] as readonly Attribute[])) === true &&
    hooked.get(5)?.equals(accept) === true &&
    rules.length === wanted.length &&
    wanted.every((bytes, index) => rules[index]?.equals(bytes) === true)
  return isWhole ? 'right' : 'other'
}

/** NETLINK_NETFILTER is 12; the socket is the table's owner, and its end the table's. */
const head = 'use strict; use Socket; socket(my $s, 16, SOCK_RAW, 12) or die "netlink: $!\\n"; '
const ownScript =
  head +
  'while (<STDIN>) { chomp; last if $_ eq "quit"; send $s, pack("H*", $_), 0 or die "$!\\n" }'
/**
 * Prints each message of the answers as a line. NLMSG_ERROR is 2, NLMSG_DONE 3; flag 2 marks one of several, flag 16 a
 * listing that a change cut into, which is asked for again.
 */
const askScript = `${head}
setsockopt($s, SOL_SOCKET, SO_RCVTIMEO, pack('l!l!', 5, 0));
for my $question (@ARGV) {
  for my $try (1 .. 10) {
    send $s, pack('H*', $question), 0 or die "$!\\n";
    my ($more, $cut, $lines) = (1, 0, '');
    while ($more) {
      defined recv($s, my $b, 65536, 0) or die "$!\\n";
      while (length $b >= 16) {
        my ($length, $type, $flags) = unpack 'LSS', $b;
        $more = 0 if $type == 2 || $type == 3 || !($flags & 2);
        $cut = 1 if $flags & 16;
        $lines .= unpack('H*', substr $b, 0, $length) . "\\n";
        substr($b, 0, ($length + 3) & ~3) = '';
      }
    }
    next if $cut;
    print $lines;
    last;
  }
}`

const hexQuestions = questions.map((question) => question.toString('hex'))

const judgeLines = (range: UidRange, stdout: string): ReturnType<typeof judgeGuard> =>
  judgeGuard(
    range,
    stdout
      .trim()
      .split('\n')
      .map((line) => Buffer.from(line, 'hex')),
  )

export function rawGuard(system: Pick<System, 'run'>, perl: string, range: UidRange): GuardMaker {
  return {
    owner: [perl, '-e', ownScript],
    rules: guardBytes(range).toString('hex'),
    look: async () => {
      const argv = [perl, '-e', askScript, '--', ...hexQuestions] as const
      const { code, stdout, stderr } = await system.run(argv)
      if (code !== 0)
        throw new JailError('BACKEND', `the kernel's nf_tables cannot be asked: ${stderr.trim()}`, {
          hint: 'isolation uid needs it, beside iptables: use isolation namespace',
        })
      return judgeLines(range, stdout)
    },
  }
}

/** Makes the guard, looks at it and ends, in one program: to try in a namespace whether the kernel has such tables. */
export function tryGuard(perl: string, range: UidRange) {
  const make = 'my $own = $s; send $own, pack("H*", shift @ARGV), 0 or die "$!\\n"; '
  return {
    argv: [
      ...[perl, '-e', head + make + askScript, '--'],
      ...[guardBytes(range).toString('hex'), ...hexQuestions],
    ],
    judge: (stdout: string) => judgeLines(range, stdout),
  }
}
