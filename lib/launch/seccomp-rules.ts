/**
 * What a jailed process may not ask of the kernel, as data.
 * Invariant: pure. Tests look at the low 32 bits of an argument, which is all that the kernel looks at
 * for each argument named here.
 */
import type { CallName } from './seccomp-calls.js'

/** Errors are those that programs take as "not there" or "not allowed" and go on. */
export type Verdict = 'allow' | 'EPERM' | 'EACCES' | 'ENOSYS' | 'EAFNOSUPPORT' | 'EPROTONOSUPPORT'

/** `(argument & mask)` equals `is`, or, with `any`, is not zero. */
export type Test =
  | { readonly arg: number; readonly mask?: number; readonly is: number }
  | { readonly arg: number; readonly any: number }

interface Case {
  /** All must hold. */
  readonly when: readonly Test[]
  readonly then: Verdict
}

export interface CallRule {
  readonly call: CallName
  /** The first that holds decides. */
  readonly cases: readonly Case[]
  readonly otherwise: Verdict
}

export interface SeccompOptions {
  /** The policy lets the command make user namespaces (and what they are for: mounts inside them). */
  readonly userNamespaces: boolean
  /** Joining multicast groups: the kernel sends IGMP and MLD for it, with no owner that a rule could match. */
  readonly multicast: boolean
}

/** <linux/socket.h>, <linux/in.h>, <linux/net.h> */
const AF = { unix: 1, inet: 2, inet6: 10, netlink: 16 } as const
const typeMask = 0xf
const stream = 1
const dgram = 2

/** <linux/sched.h>: NEWNS CGROUP UTS IPC USER PID NET; NEWTIME (0x80) only for unshare, else part of the exit signal. */
const cloneNamespaces = 0x7e020000
const newTime = 0x80

/** <asm-generic/ioctls.h>: types into the terminal, pastes into the console, changes the line discipline. */
const terminalRequests = { TIOCSTI: 0x5412, TIOCLINUX: 0x541c, TIOCSETD: 0x5423 } as const

/** S_ISUID | S_ISGID: in an idmapped workspace such a file would be the caller's on disk. */
const setIds = 0o6000
const O_CREAT = 0x40
/** __O_TMPFILE, without O_DIRECTORY. */
const O_TMPFILE = 0x400000

/** <linux/in.h>, <linux/in6.h>: joins, by level of IPPROTO_IP (0) and IPPROTO_IPV6 (41). */
const joins: readonly (readonly [level: number, name: number])[] = [
  ...[35, 39, 41, 42, 46, 48].map((name) => [0, name] as const),
  ...[20, 27, 42, 46, 48].map((name) => [41, name] as const),
]

export function seccompRules(options: SeccompOptions): readonly CallRule[] {
  return [
    ...sockets(),
    ...(options.multicast ? [] : [noJoins]),
    ...terminal(),
    ...setIdFiles(),
    ...(options.userNamespaces ? [] : namespaces()),
    ...all('ENOSYS', ['io_uring_setup', 'io_uring_enter', 'io_uring_register']),
    ...all('ENOSYS', ['add_key', 'request_key', 'keyctl', 'openat2']),
    ...all('ENOSYS', ['uselib', 'sysfs', '_sysctl', 'modify_ldt', 'lookup_dcookie', 'nfsservctl']),
    ...all('ENOSYS', ['create_module', 'get_kernel_syms', 'query_module']),
    ...all('EPERM', ['bpf', 'perf_event_open', 'userfaultfd', 'fanotify_init', 'syslog']),
    ...all('EPERM', ['name_to_handle_at', 'open_by_handle_at']),
    ...all('EPERM', ['process_vm_readv', 'process_vm_writev', 'kcmp', 'pidfd_getfd']),
    ...all('EPERM', ['kexec_load', 'kexec_file_load', 'init_module', 'finit_module']),
    ...all('EPERM', ['delete_module', 'reboot', 'swapon', 'swapoff', 'acct', 'vhangup']),
    ...all('EPERM', ['quotactl', 'quotactl_fd', 'settimeofday', 'clock_settime']),
    ...all('EPERM', ['iopl', 'ioperm']),
  ]
}

function all(otherwise: Verdict, names: readonly CallName[]): CallRule[] {
  return names.map((call) => ({ call, cases: [], otherwise }))
}

function sockets(): CallRule[] {
  const ip = (family: number): Case[] => {
    const of = (...more: Test[]): Test[] => [{ arg: 0, is: family }, ...more]
    const type = (is: number): Test => ({ arg: 1, mask: typeMask, is })
    const protocol = (is: number): Test => ({ arg: 2, is })
    return [
      { when: of(type(stream), protocol(0)), then: 'allow' },
      { when: of(type(stream), protocol(6)), then: 'allow' },
      { when: of(type(dgram), protocol(0)), then: 'allow' },
      { when: of(type(dgram), protocol(17)), then: 'allow' },
      // ping without privilege
      { when: of(type(dgram), protocol(family === AF.inet ? 1 : 58)), then: 'EACCES' },
      { when: of(type(3)), then: 'EPERM' },
      // UDP-Lite 136, MPTCP 262, SCTP 132, DCCP 33: programs fall back to TCP or UDP
      { when: of(), then: 'EPROTONOSUPPORT' },
    ]
  }
  return [
    {
      call: 'socket',
      cases: [
        { when: [{ arg: 0, is: AF.unix }], then: 'allow' },
        ...ip(AF.inet),
        ...ip(AF.inet6),
        {
          when: [
            { arg: 0, is: AF.netlink },
            { arg: 2, is: 0 },
          ],
          then: 'allow',
        },
        { when: [{ arg: 0, is: AF.netlink }], then: 'EPROTONOSUPPORT' },
      ],
      otherwise: 'EAFNOSUPPORT',
    },
    {
      call: 'socketpair',
      cases: [{ when: [{ arg: 0, is: AF.unix }], then: 'allow' }],
      otherwise: 'EAFNOSUPPORT',
    },
  ]
}

const noJoins: CallRule = {
  call: 'setsockopt',
  cases: joins.map(([level, name]) => ({
    when: [
      { arg: 1, is: level },
      { arg: 2, is: name },
    ],
    then: 'EPERM',
  })),
  otherwise: 'allow',
}

function terminal(): CallRule[] {
  const cases = Object.values(terminalRequests).map((is): Case => ({
    when: [{ arg: 1, is }],
    then: 'EPERM',
  }))
  return [{ call: 'ioctl', cases, otherwise: 'allow' }]
}

function setIdFiles(): CallRule[] {
  const mode = (call: CallName, arg: number): CallRule => ({
    call,
    cases: [{ when: [{ arg, any: setIds }], then: 'EPERM' }],
    otherwise: 'allow',
  })
  const create = (call: CallName, flags: number): CallRule => ({
    call,
    // Without O_CREAT and O_TMPFILE the mode is whatever the register held.
    cases: [
      {
        when: [
          { arg: flags, any: O_CREAT | O_TMPFILE },
          { arg: flags + 1, any: setIds },
        ],
        then: 'EPERM',
      },
    ],
    otherwise: 'allow',
  })
  return [
    ...[mode('chmod', 1), mode('fchmod', 1), mode('fchmodat', 2), mode('fchmodat2', 2)],
    ...[mode('creat', 1), mode('mknod', 1), mode('mknodat', 2)],
    ...[create('open', 1), create('openat', 2)],
  ]
}

function namespaces(): CallRule[] {
  return [
    {
      call: 'clone',
      cases: [{ when: [{ arg: 0, any: cloneNamespaces }], then: 'EPERM' }],
      otherwise: 'allow',
    },
    {
      call: 'unshare',
      cases: [{ when: [{ arg: 0, any: cloneNamespaces | newTime }], then: 'EPERM' }],
      otherwise: 'allow',
    },
    // Its flags lie in memory, where no filter looks; libc falls back to clone.
    ...all('ENOSYS', ['clone3']),
    ...all('EPERM', ['setns', 'mount', 'umount2', 'pivot_root', 'chroot', 'mount_setattr']),
    ...all('EPERM', ['open_tree', 'move_mount', 'fsopen', 'fsconfig', 'fsmount', 'fspick']),
    ...all('EPERM', ['sethostname', 'setdomainname']),
  ]
}
