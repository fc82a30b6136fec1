/**
 * The seccomp filter, run by an interpreter of classic BPF for both machines.
 * The expectations are numbers of the kernel's headers, written here by hand, not the filter's own table.
 */
import t from 'tap'
import { compileSeccomp } from '../lib/launch/seccomp.js'

const x64 = 0xc000003e
const arm64 = 0xc00000b7
const allow = 'allow'

/** Classic BPF over struct seccomp_data (Documentation/networking/filter.rst). */
function judge(program: Buffer, arch: number, nr: number, args: readonly (number | bigint)[]) {
  const data = Buffer.alloc(64)
  data.writeUInt32LE(nr >>> 0, 0)
  data.writeUInt32LE(arch, 4)
  args.forEach((arg, n) => data.writeBigUInt64LE(BigInt.asUintN(64, BigInt(arg)), 16 + 8 * n))
  let a = 0
  for (let pc = 0; pc < program.length / 8; pc++) {
    const code = program.readUInt16LE(pc * 8)
    const jt = program.readUInt8(pc * 8 + 2)
    const jf = program.readUInt8(pc * 8 + 3)
    const k = program.readUInt32LE(pc * 8 + 4)
    if (code === 0x20) a = data.readUInt32LE(k)
    else if (code === 0x54) a = (a & k) >>> 0
    else if (code === 0x15) pc += a === k ? jt : jf
    else if (code === 0x25) pc += a > k ? jt : jf
    else if (code === 0x06) {
      if (k === 0x7fff0000) return allow
      if (k >>> 16 === 5) return k & 0xffff
      throw new Error(`unknown action ${k.toString(16)}`)
    } else throw new Error(`unknown instruction ${code.toString(16)}`)
  }
  throw new Error('the program ran off its end')
}

const EPERM = 1
const EACCES = 13
const ENOSYS = 38
const EPROTONOSUPPORT = 93
const EAFNOSUPPORT = 97
type Row = [
  title: string,
  x64: number | undefined,
  arm64: number | undefined,
  args: (number | bigint)[],
  expected: string | number,
]

const high = 0xdead00000000n
const rows: Row[] = [
  ['read', 0, 63, [0, 0, 0], allow],
  ['execve', 59, 221, [], allow],
  ['exit_group', 231, 94, [0], allow],
  ['ptrace (its own processes)', 101, 117, [0], allow],
  ['prctl', 157, 167, [22, 2], allow],
  ['unix socket', 41, 198, [1, 1, 0], allow],
  ['tcp', 41, 198, [2, 1, 6], allow],
  ['tcp, cloexec and nonblock', 41, 198, [2, 1 | 0x80000 | 0x800, 0], allow],
  ['tcp over ipv6', 41, 198, [10, 1, 0], allow],
  ['udp', 41, 198, [2, 2, 17], allow],
  ['udp, garbage above the int', 41, 198, [high | 2n, high | 2n, high], allow],
  ['raw', 41, 198, [2, 3, 1], EPERM],
  ['raw, with flags', 41, 198, [2, 3 | 0x80000, 255], EPERM],
  ['raw over ipv6', 41, 198, [10, 3, 58], EPERM],
  ['ping', 41, 198, [2, 2, 1], EACCES],
  ['ping over ipv6', 41, 198, [10, 2, 58], EACCES],
  ['udp-lite', 41, 198, [2, 2, 136], EPROTONOSUPPORT],
  ['udp-lite over ipv6', 41, 198, [10, 2, 136], EPROTONOSUPPORT],
  ['mptcp', 41, 198, [2, 1, 262], EPROTONOSUPPORT],
  ['mptcp, garbage above', 41, 198, [2, 1, high | 262n], EPROTONOSUPPORT],
  ['sctp stream', 41, 198, [2, 1, 132], EPROTONOSUPPORT],
  ['sctp seqpacket', 41, 198, [2, 5, 132], EPROTONOSUPPORT],
  ['dccp', 41, 198, [2, 6, 33], EPROTONOSUPPORT],
  ['netlink route', 41, 198, [16, 3, 0], allow],
  ['netlink netfilter', 41, 198, [16, 3, 12], EPROTONOSUPPORT],
  ['packet', 41, 198, [17, 3, 768], EAFNOSUPPORT],
  ['vsock', 41, 198, [40, 1, 0], EAFNOSUPPORT],
  ['alg', 41, 198, [38, 5, 0], EAFNOSUPPORT],
  ['xdp', 41, 198, [44, 3, 0], EAFNOSUPPORT],
  ['bluetooth', 41, 198, [31, 3, 0], EAFNOSUPPORT],
  ['socketpair unix', 53, 199, [1, 1, 0], allow],
  ['socketpair tipc', 53, 199, [30, 1, 0], EAFNOSUPPORT],
  ['TIOCSTI', 16, 29, [0, 0x5412], EPERM],
  ['TIOCSTI, garbage above', 16, 29, [0, high | 0x5412n], EPERM],
  ['TIOCLINUX', 16, 29, [0, 0x541c], EPERM],
  ['TCGETS', 16, 29, [0, 0x5401], allow],
  ['TIOCGWINSZ', 16, 29, [0, 0x5413], allow],
  ['clone: thread', 56, 220, [0x3d0f00], allow],
  ['clone: fork', 56, 220, [0x1200011], allow],
  ['clone NEWUSER', 56, 220, [0x10000011], EPERM],
  ['clone NEWNET', 56, 220, [0x40000011], EPERM],
  ['clone NEWCGROUP', 56, 220, [0x02000011], EPERM],
  ['clone3', 435, 435, [0, 88], ENOSYS],
  ['unshare NEWUSER', 272, 97, [0x10000000], EPERM],
  ['unshare NEWTIME', 272, 97, [0x80], EPERM],
  ['unshare FILES', 272, 97, [0x400], allow],
  ['setns', 308, 268, [3, 0], EPERM],
  ['mount', 165, 40, [], EPERM],
  ['pivot_root', 155, 41, [], EPERM],
  ['fsopen', 430, 430, [], EPERM],
  ['chmod 4755', 90, undefined, [0, 0o4755], EPERM],
  ['chmod 755', 90, undefined, [0, 0o755], allow],
  ['chmod 1777', 90, undefined, [0, 0o1777], allow],
  ['fchmod 2755', 91, 52, [3, 0o2755], EPERM],
  ['fchmodat 6755', 268, 53, [-100, 0, 0o6755], EPERM],
  ['fchmodat2 4755', 452, 452, [-100, 0, 0o4755, 0], EPERM],
  ['open, create 4755', 2, undefined, [0, 0x241, 0o4755], EPERM],
  ['open, no create, mode unused', 2, undefined, [0, 0, 0o7777], allow],
  ['openat, create 4755', 257, 56, [-100, 0, 0x41, 0o4755], EPERM],
  ['openat, O_TMPFILE 4755', 257, 56, [-100, 0, 0x410002, 0o4755], EPERM],
  ['openat, create 644', 257, 56, [-100, 0, 0x241, 0o644], allow],
  ['openat, read, mode unused', 257, 56, [-100, 0, 0x80000, 0xffff], allow],
  ['creat 4755', 85, undefined, [0, 0o4755], EPERM],
  ['mknodat 4755', 259, 33, [-100, 0, 0o104755], EPERM],
  ['openat2', 437, 437, [], ENOSYS],
  ['io_uring_setup', 425, 425, [], ENOSYS],
  ['io_uring_enter', 426, 426, [], ENOSYS],
  ['keyctl', 250, 219, [], ENOSYS],
  ['add_key', 248, 217, [], ENOSYS],
  ['bpf', 321, 280, [], EPERM],
  ['perf_event_open', 298, 241, [], EPERM],
  ['userfaultfd', 323, 282, [], EPERM],
  ['init_module', 175, 105, [], EPERM],
  ['finit_module', 313, 273, [], EPERM],
  ['kexec_load', 246, 104, [], EPERM],
  ['open_by_handle_at', 304, 265, [], EPERM],
  ['process_vm_readv', 310, 270, [], EPERM],
  ['pidfd_getfd', 438, 438, [], EPERM],
  ['join a group (IGMP)', 54, 208, [3, 0, 35], EPERM],
  ['join a group (MLD)', 54, 208, [3, 41, 20], EPERM],
  ['MCAST_JOIN_GROUP', 54, 208, [3, 0, 42], EPERM],
  ['SO_REUSEADDR', 54, 208, [3, 1, 2], allow],
  ['TCP_NODELAY', 54, 208, [3, 6, 1], allow],
  ['a call of the future', 463, 463, [], ENOSYS],
  ['x32 socket', 0x40000000 + 41, 0x40000000 + 41, [2, 1, 0], ENOSYS],
  ['minus one', -1, -1, [], ENOSYS],
]

const strict = { userNamespaces: false, multicast: false }

t.test('each call on both machines', async (t) => {
  const programs = { x64: compileSeccomp('x64', strict), arm64: compileSeccomp('arm64', strict) }
  for (const [title, nrX64, nrArm64, args, expected] of rows) {
    if (nrX64 !== undefined) {
      t.equal(judge(programs.x64, x64, nrX64, args), expected, `x86_64 ${title}`)
    }
    if (nrArm64 !== undefined) {
      t.equal(judge(programs.arm64, arm64, nrArm64, args), expected, `arm64 ${title}`)
    }
  }
})

t.test('another ABI gets nothing', async (t) => {
  const i386 = 0x40000003
  for (const nr of [1, 3, 41, 102]) {
    t.equal(judge(compileSeccomp('x64', strict), i386, nr, []), ENOSYS, `i386 ${String(nr)}`)
    t.equal(judge(compileSeccomp('x64', strict), arm64, nr, []), ENOSYS, `arm64 on x86_64`)
    t.equal(judge(compileSeccomp('arm64', strict), x64, nr, []), ENOSYS, `x86_64 on arm64`)
  }
})

t.test('options open only what they say', async (t) => {
  const spaces = compileSeccomp('x64', { userNamespaces: true, multicast: false })
  t.equal(judge(spaces, x64, 272, [0x10000000]), allow, 'unshare NEWUSER')
  t.equal(judge(spaces, x64, 435, []), allow, 'clone3')
  t.equal(judge(spaces, x64, 41, [17, 3, 0]), EAFNOSUPPORT, 'packet stays closed')
  t.equal(judge(spaces, x64, 425, []), ENOSYS, 'io_uring stays closed')
  const groups = compileSeccomp('x64', { userNamespaces: false, multicast: true })
  t.equal(judge(groups, x64, 54, [3, 0, 35]), allow, 'join')
  t.equal(judge(groups, x64, 272, [0x10000000]), EPERM, 'unshare stays closed')
})

t.test('the kernel takes it: whole instructions, at most 4096', async (t) => {
  for (const machine of ['x64', 'arm64'] as const) {
    const { length } = compileSeccomp(machine, strict)
    t.equal(length % 8, 0)
    t.ok(length / 8 < 4096, `${String(length / 8)} instructions`)
  }
})
