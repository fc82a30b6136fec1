/**
 * What a scenario needs of a machine with agentjail on it: Linux in the lab, or the modelled Mac. Scenarios are written
 * once, over this; each system's tests run them and keep what only it has.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface Started {
  /** To agentjail alone. */
  kill(signal: NodeJS.Signals): unknown
  stdout(): string
  stderr(): string
  /** Resolves once its output matches; rejects after a long while, or at its end. */
  until(pattern: RegExp): Promise<unknown>
  readonly ended: Promise<Ended>
}

/** Every jail of a scenario is called `faults`, unless it says otherwise, and has run once before. */
export interface Host {
  readonly stateDir: string
  readonly logDir: string
  /** State files that all jails share. */
  readonly sharedState: readonly string[]
  /** `run` with policy and all, up to `--`. */
  readonly prefix: readonly string[]
  /** Tries without end to reach what is not granted; says `started`. */
  readonly restless: readonly string[]
  /** What other tools do to the firewall, that is mended: name and command. */
  readonly damages: readonly (readonly [name: string, argv: readonly string[]])[]
  /** Nothing gets out even in the second before it is noticed. */
  readonly hasSecondLine: boolean
  agentjail(...args: readonly string[]): Promise<Ended>
  start(...args: readonly string[]): Started
  /** As root. There is an `agentjail` on the PATH. */
  run(...argv: readonly string[]): Promise<Ended>
  write(path: string, text: string): Promise<void>
  /** Of the user of jail `faults`. */
  uid(): Promise<number>
  /** Processes of the reserved range, and gates. */
  jailed(): Promise<number>
  gates(): Promise<number>
  /** Whether the jail that runs gets to what its policy grants from its start. */
  granted(): Promise<boolean>
  /** Whether the jail that runs may connect to this name at port 443, by what the gate says. */
  mayConnect(name: string): Promise<boolean>
  /** Whether a program of this user gets out to the attacker. */
  leaks(uid: number): Promise<boolean>
  /** What reached the attacker since this was last asked, or could have: never anything. */
  leaked(): Promise<readonly unknown[]>
  /** What is there that was not there before the first scenario, by kind: nothing. */
  left(): Promise<Readonly<Record<string, unknown>>>
}

/** Looks until it holds; at most `seconds`. */
export async function eventually(
  check: () => boolean | Promise<boolean>,
  seconds = 30,
): Promise<boolean> {
  for (let n = 0; n < seconds * 20; n++) {
    if (await check()) return true
    await sleep(50)
  }
  return false
}

export const collect = async (t: Test, host: Host, name: string): Promise<void> => {
  const { code, stderr } = await host.agentjail('gc')
  t.equal(code, 0, `${name}: gc: ${stderr}`)
}

export const nothingLeft = async (t: Test, host: Host, name: string): Promise<void> => {
  t.same(await host.left(), {}, `${name}: nothing is left`)
}

export const silence = async (t: Test, host: Host, name: string): Promise<void> => {
  t.same(await host.leaked(), [], `${name}: nothing reached the attacker`)
}
