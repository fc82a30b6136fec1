/**
 * A command as data: what the parser, `--help`, the man page and the completions are all made of.
 * Invariant: nothing of a command's own code is loaded before it runs.
 */
import { JailError } from '../../errors.js'
import type { Ending } from '../../launch/types.js'
import type { CommandIo } from '../io.js'

/** What a shell may complete a word with. */
export type Completes = 'policy' | 'jail' | 'file'

export interface OptionSpec {
  readonly name: string
  readonly alias?: string
  /** `texts`: may be given several times. */
  readonly type: 'flag' | 'text' | 'texts' | 'number'
  readonly describe: string
  /** What its value is called: `FILE`. */
  readonly value?: string
  readonly choices?: readonly string[]
  readonly default?: string | number
  readonly completes?: Completes
  /** Not in help, man page or completions. */
  readonly hidden?: boolean
  /** Options that it cannot be together with. */
  readonly conflicts?: readonly string[]
}

export interface PositionalSpec {
  readonly name: string
  readonly describe: string
  readonly kind: 'required' | 'optional' | 'several'
  readonly choices?: readonly string[]
  readonly completes?: Completes
}

export interface CommandSpec {
  /** `run`, or `policy check`. */
  readonly name: string
  /** One line, without a full stop. */
  readonly summary: string
  /** For the man page, beyond the summary. */
  readonly details?: string
  readonly positionals?: readonly PositionalSpec[]
  readonly options?: readonly OptionSpec[]
  /** Takes a command after `--`. */
  readonly takesCommand?: boolean
  /** Command line (without `agentjail`) and what it is for; at least one. */
  readonly examples: readonly (readonly [string, string])[]
  readonly epilogue?: string
  /** Whether an ordinary user needs sudo for these words, which is then asked. */
  readonly needsRoot?: (words: Words) => boolean
  readonly run: (words: Words, io: CommandIo) => Promise<Ending | number>
}

/** Of `needsRoot`. */
export const always = (): boolean => true

/** The words of one command line, by the names of its spec. */
export class Words {
  readonly #values: Readonly<Record<string, unknown>>
  /** As it was typed, for sudo. */
  readonly argv: readonly string[]
  readonly script = process.argv[1] ?? ''

  constructor(values: Readonly<Record<string, unknown>>, argv: readonly string[]) {
    this.#values = values
    this.argv = argv
  }

  text(name: string): string | undefined {
    const value = this.#values[name]
    return typeof value === 'string' ? value : undefined
  }

  /** Of a positional that is required, or an option with a default. */
  need(name: string): string {
    return this.text(name) ?? ''
  }

  texts(name: string): string[] {
    const value = this.#values[name]
    return Array.isArray(value) ? value.map(String) : []
  }

  flag(name: string): boolean {
    return this.#values[name] === true
  }

  /** A flag that may be left to its default. */
  maybe(name: string): boolean | undefined {
    const value = this.#values[name]
    return typeof value === 'boolean' ? value : undefined
  }

  number(name: string, otherwise: number): number {
    const value = Number(this.#values[name] ?? otherwise)
    if (Number.isSafeInteger(value) && value >= 0) return value
    throw new JailError('USAGE', `--${name} is not a number`, {
      hint: `for example: --${name} ${String(otherwise)}`,
    })
  }

  /** One of the choices, which the parser has checked. */
  choice<T extends string>(name: string, choices: readonly T[]): T | undefined {
    const value = this.text(name)
    return choices.find((one) => one === value)
  }

  /** What stands after `--`. */
  rest(): string[] {
    return this.texts('--')
  }

  /** The command after `--`. Throws USAGE where there is none. */
  command(): [string, ...string[]] {
    const [first, ...rest] = this.rest()
    if (first === undefined || first === '') {
      throw new JailError('USAGE', 'no command after --', {
        hint: 'for example: agentjail run --policy openai -- node bot.js',
      })
    }
    return [first, ...rest]
  }
}

export const jsonOption: OptionSpec = {
  name: 'json',
  type: 'flag',
  describe: 'As JSON, for programs',
}

export const policyOption: OptionSpec = {
  name: 'policy',
  alias: 'p',
  type: 'texts',
  value: 'POLICY',
  completes: 'policy',
  describe: 'Bundled policy or file; several are joined',
}

/** Of a jail that runs. */
export const runningJail: PositionalSpec = {
  name: 'name',
  kind: 'required',
  completes: 'jail',
  describe: 'The jail, as agentjail status shows it',
}
