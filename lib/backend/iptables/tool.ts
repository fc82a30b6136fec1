/**
 * Runs iptables and ipset, on the host or in a network namespace.
 * Invariant: rules go to the tools on standard input, printed from data; any tool's complaint is an error.
 */
import { JailError } from '../../errors.js'
import type { Argv, System } from '../../system/types.js'
import type { Family } from './ast.js'
import { parseListing, parseSets } from './readback.js'
import type { Listing } from './readback.js'

/** Absolute paths. */
export interface IptablesTools {
  readonly restore: string
  readonly save: string
  readonly restore6: string
  readonly save6: string
  readonly ipset: string
  readonly ip: string
  readonly unshare: string
  readonly nsenter: string
  readonly perl: string
}

/** Seconds to wait for the lock that the legacy tools share. */
const lockSeconds = '5'

export class Tool {
  readonly #system: System
  readonly #tools: IptablesTools
  readonly #enter: readonly string[]

  /** @param netns path of a network namespace; absent: this one */
  constructor(system: System, tools: IptablesTools, netns?: string) {
    this.#system = system
    this.#tools = tools
    this.#enter = netns === undefined ? [] : [tools.nsenter, `--net=${netns}`, '--']
  }

  /** One transaction a table. */
  async load(family: Family, lines: readonly string[]): Promise<void> {
    const program = family === 4 ? this.#tools.restore : this.#tools.restore6
    await this.#must([program, '--noflush', '--wait', lockSeconds], lines)
  }

  async list(family: Family): Promise<Listing> {
    const program = family === 4 ? this.#tools.save : this.#tools.save6
    return parseListing(await this.#must([program], []))
  }

  /** Both families. */
  async lists(): Promise<Readonly<Record<Family, Listing>>> {
    const [v4, v6] = await Promise.all([this.list(4), this.list(6)])
    return { 4: v4, 6: v6 }
  }

  /** What is there already is no error. */
  async loadSets(lines: readonly string[]): Promise<void> {
    if (lines.length > 0) await this.#must([this.#tools.ipset, '-exist', 'restore'], lines)
  }

  /** One set with its elements; undefined: there is none. */
  async set(name: string): Promise<ReturnType<typeof parseSets> | undefined> {
    const { code, stdout, stderr } = await this.#run([this.#tools.ipset, 'save', name], [])
    if (code === 0) return parseSets(stdout)
    if (stderr.includes('does not exist')) return undefined
    throw refusal(this.#tools.ipset, stderr)
  }

  async setNames(): Promise<string[]> {
    const text = await this.#must([this.#tools.ipset, 'list', '-name'], [])
    return text.split('\n').filter((name) => name !== '')
  }

  /** `ip -batch`. */
  async ip(lines: readonly string[]): Promise<void> {
    await this.#must([this.#tools.ip, '-batch', '-'], lines)
  }

  async #must(argv: readonly [string, ...string[]], lines: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.#run(argv, lines)
    if (code === 0) return stdout
    throw refusal(argv[0], stderr)
  }

  #run(argv: readonly [string, ...string[]], lines: readonly string[]) {
    const whole = [...this.#enter, ...argv] as unknown as Argv
    return this.#system.run(whole, lines.length === 0 ? {} : { input: `${lines.join('\n')}\n` })
  }
}

function refusal(program: string, stderr: string): JailError {
  const name = program.slice(program.lastIndexOf('/') + 1)
  const said = stderr.split('\n').find((line) => line.trim() !== '') ?? 'it says nothing'
  return new JailError('BACKEND', `${name} refused: ${said.slice(0, 200)}`)
}
