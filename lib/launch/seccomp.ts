/**
 * Compiles the filter's rules to classic BPF, as seccomp(2) takes it.
 * Invariant: pure; a call of another ABI (i386, x32) or newer than the table is ENOSYS, so what nobody
 * has judged is closed.
 */
import { calls, newestCall } from './seccomp-calls.js'
import { seccompRules, type CallRule, type Test, type Verdict } from './seccomp-rules.js'
import type { SeccompOptions } from './seccomp-rules.js'
import type { Machine } from '../system/syscall-numbers.js'

export type { SeccompOptions } from './seccomp-rules.js'

/** <linux/audit.h> AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 */
const auditArch: Readonly<Record<Machine, number>> = { x64: 0xc000003e, arm64: 0xc00000b7 }

/** <asm-generic/errno-base.h>, <asm-generic/errno.h> */
const errno: Readonly<Record<Exclude<Verdict, 'allow'>, number>> = {
  EPERM: 1,
  EACCES: 13,
  ENOSYS: 38,
  EPROTONOSUPPORT: 93,
  EAFNOSUPPORT: 97,
}

/** <linux/seccomp.h> SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO */
const retAllow = 0x7fff0000
const retErrno = 0x00050000

/** <linux/bpf_common.h>: BPF_LD|W|ABS, ALU|AND|K, JMP|JEQ|K, JMP|JGT|K, RET|K */
const op = { load: 0x20, and: 0x54, ifEqual: 0x15, ifGreater: 0x25, ret: 0x06 } as const

/** struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits (little endian on both machines). */
const offset = { nr: 0, arch: 4, args: 16 } as const

interface Instruction {
  readonly code: number
  readonly jt: number
  readonly jf: number
  readonly k: number
}

/** @returns an array of struct sock_filter, 8 bytes each. */
export function compileSeccomp(machine: Machine, options: SeccompOptions): Buffer {
  const program = [
    load(offset.arch),
    { code: op.ifEqual, jt: 1, jf: 0, k: auditArch[machine] },
    ret('ENOSYS'),
    load(offset.nr),
    { code: op.ifGreater, jt: 0, jf: 1, k: newestCall },
    ret('ENOSYS'),
    ...seccompRules(options).flatMap((rule) => compileRule(machine, rule)),
    ret('allow'),
  ]
  const bytes = Buffer.alloc(program.length * 8)
  program.forEach(({ code, jt, jf, k }, n) => {
    bytes.writeUInt16LE(code, n * 8)
    bytes.writeUInt8(jt, n * 8 + 2)
    bytes.writeUInt8(jf, n * 8 + 3)
    bytes.writeUInt32LE(k, n * 8 + 4)
  })
  return bytes
}

/** Falls through to the next rule, the number still loaded, where the call is another. */
function compileRule(machine: Machine, rule: CallRule): Instruction[] {
  const number = calls[rule.call][machine === 'x64' ? 0 : 1]
  if (number === undefined) return []
  const body = [
    ...rule.cases.flatMap(({ when, then }) => compileCase(when, then)),
    ret(rule.otherwise),
  ]
  return [{ code: op.ifEqual, jt: 0, jf: jump(body.length), k: number }, ...body]
}

function compileCase(when: readonly Test[], then: Verdict): Instruction[] {
  let body: Instruction[] = [ret(then)]
  for (const test of [...when].reverse()) {
    const skip = jump(body.length)
    const decide =
      'any' in test
        ? { code: op.ifEqual, jt: skip, jf: 0, k: 0 }
        : { code: op.ifEqual, jt: 0, jf: skip, k: test.is >>> 0 }
    const mask = 'any' in test ? test.any : test.mask
    body = [
      load(offset.args + 8 * test.arg),
      ...(mask === undefined ? [] : [{ code: op.and, jt: 0, jf: 0, k: mask >>> 0 }]),
      decide,
      ...body,
    ]
  }
  return body
}

function load(k: number): Instruction {
  return { code: op.load, jt: 0, jf: 0, k }
}

function ret(verdict: Verdict): Instruction {
  const k = verdict === 'allow' ? retAllow : retErrno | errno[verdict]
  return { code: op.ret, jt: 0, jf: 0, k }
}

/** A conditional jump reaches 255 instructions. */
function jump(length: number): number {
  if (length > 255) throw new RangeError(`a seccomp rule of ${String(length)} instructions`)
  return length
}
