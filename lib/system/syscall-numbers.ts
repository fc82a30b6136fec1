/**
 * Numbers of the system calls that the launch steps make by number, per machine.
 * Invariant: only numbers of 64-bit ABIs; calls from 424 up are the same everywhere
 * (Linux arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
 */
import { JailError } from '../errors.js'

export type Machine = 'x64' | 'arm64'

export interface StepCalls {
  readonly mount: number
  readonly unshare: number
  readonly setns: number
  readonly prctl: number
  readonly prlimit64: number
  readonly keyctl: number
  readonly rtSigprocmask: number
  readonly signalfd4: number
  readonly wait4: number
  readonly statfs: number
  readonly setgroups: number
  readonly setresgid: number
  readonly setresuid: number
  readonly capset: number
  readonly close: number
  readonly getxattr: number
  readonly setxattr: number
  readonly removexattr: number
  readonly fchownat: number
  readonly memfdCreate: number
  readonly dup3: number
  readonly setsid: number
}

/** The calls of the launch steps by number. */
export const stepCalls: Readonly<Record<Machine, StepCalls>> = {
  x64: {
    mount: 165,
    unshare: 272,
    setns: 308,
    prctl: 157,
    prlimit64: 302,
    keyctl: 250,
    rtSigprocmask: 14,
    signalfd4: 289,
    wait4: 61,
    statfs: 137,
    setgroups: 116,
    setresgid: 119,
    setresuid: 117,
    capset: 126,
    close: 3,
    getxattr: 191,
    setxattr: 188,
    removexattr: 197,
    fchownat: 260,
    memfdCreate: 319,
    dup3: 292,
    setsid: 112,
  },
  arm64: {
    mount: 40,
    unshare: 97,
    setns: 268,
    prctl: 167,
    prlimit64: 261,
    keyctl: 219,
    rtSigprocmask: 135,
    signalfd4: 74,
    wait4: 260,
    statfs: 43,
    setgroups: 159,
    setresgid: 149,
    setresuid: 147,
    capset: 91,
    close: 57,
    getxattr: 8,
    setxattr: 5,
    removexattr: 14,
    fchownat: 54,
    memfdCreate: 279,
    dup3: 24,
    setsid: 157,
  },
}

/** O_NOFOLLOW, which the machines number differently (arch/arm64/include/uapi/asm/fcntl.h). */
export const noFollow: Readonly<Record<Machine, number>> = { x64: 0x20000, arm64: 0x8000 }

/** @throws JailError PLATFORM for any other machine. */
export function parseMachine(arch: string): Machine {
  if (arch === 'x64' || arch === 'arm64') return arch
  throw new JailError('PLATFORM', `no launch for the machine type ${arch}`, {
    hint: 'agentjail runs on x86_64 and arm64',
  })
}
