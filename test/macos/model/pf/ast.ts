/** What the strict parser of the tests makes of pf.conf text: one entry a rule after lists are expanded. */
export type Host =
  | { readonly kind: 'any' }
  | {
      readonly kind: 'net'
      readonly family: 4 | 6
      readonly address: string
      readonly prefix: number
    }
  | { readonly kind: 'table'; readonly name: string }

export interface NumberTest {
  readonly op: '=' | '!=' | '<' | '<=' | '>' | '>=' | '><' | '<>' | ':'
  readonly a: number
  readonly b?: number
}

export interface End {
  readonly not: boolean
  readonly host: Host
  readonly port?: NumberTest
}

export interface Matchers {
  readonly direction?: 'in' | 'out'
  readonly quick: boolean
  readonly log?: string
  readonly on?: { readonly not: boolean; readonly name: string }
  readonly family?: 4 | 6
  readonly proto?: string
  readonly from: End
  readonly to: End
  readonly user?: NumberTest
  readonly flags?: { readonly set: string; readonly mask: string }
  readonly label?: string
}

export interface FilterRule extends Matchers {
  readonly kind: 'filter'
  readonly action: 'pass' | 'drop' | 'return'
  readonly routeTo?: { readonly on: string; readonly address: string }
  readonly state: 'none' | 'keep'
}

export interface AnchorCall extends Matchers {
  readonly kind: 'anchor'
  /** As written; `x/*` calls what lies directly below x. */
  readonly path: string
}

export interface RdrRule extends Matchers {
  readonly kind: 'rdr'
  readonly negated: boolean
  readonly pass: boolean
  readonly target?: { readonly address: string; readonly port?: number }
}

/** `scrub-anchor`, `nat-anchor`, `rdr-anchor`, `dummynet-anchor`, `scrub`, `nat`, `set`: kept as text. */
export interface OtherLine {
  readonly kind: 'other'
  readonly section: 'options' | 'normalization' | 'translation' | 'dummynet'
  readonly text: string
}

export interface Table {
  readonly name: string
  readonly persist: boolean
  readonly constant: boolean
  /** Undefined: no braces, keep what is there. */
  readonly entries?: readonly string[]
}

export type Statement = FilterRule | AnchorCall | RdrRule | OtherLine

export interface Parsed {
  readonly tables: readonly Table[]
  readonly statements: readonly Statement[]
  readonly warnings: readonly string[]
}

/** UID_MAX of macOS (`<sys/syslimits.h>`): the owner of what has none here, `unknown` in a rule. */
export const noUid = 0x7fff_ffff
