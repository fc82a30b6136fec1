/** Facts of the machine a bench ran on: figures are compared within one run only. */
import { execFileSync } from 'node:child_process'
import { cpus, loadavg, release, totalmem } from 'node:os'

export interface Machine {
  readonly cpu: string
  readonly cpus: number
  readonly memoryMB: number
  readonly kernel: string
  readonly node: string
  readonly nft: string
  /** One-minute load. */
  readonly load: number
}

export function machineFacts(): Machine {
  return {
    cpu: cpus()[0]?.model ?? '',
    cpus: cpus().length,
    memoryMB: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    node: process.version,
    nft: execFileSync('/usr/sbin/nft', ['--version'], { encoding: 'utf8' }).trim(),
    load: currentLoad(),
  }
}

export const currentLoad = (): number => Number((loadavg()[0] ?? 0).toFixed(2))
