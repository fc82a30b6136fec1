/** What a part of the bench gives: figures for the JSON, tables and plots for the docs, bars with their verdicts. */

export interface Options {
  /** Small counts: to see that everything runs, not to quote. */
  readonly quick: boolean
}

/** A figure that was promised. */
export interface Bar {
  readonly text: string
  readonly figure: number | undefined
  readonly limit: number
  readonly unit: string
  readonly sense: 'at most' | 'at least'
}

export interface Table {
  readonly title: string
  readonly head: readonly string[]
  readonly rows: readonly (readonly string[])[]
}

export interface Plot {
  /** Without directory or extension. */
  readonly name: string
  readonly svg: string
}

export interface Part {
  readonly title: string
  readonly bars: readonly Bar[]
  readonly tables: readonly Table[]
  readonly plots: readonly Plot[]
  /** Rivals and tools that were not there. */
  readonly missing: readonly string[]
  readonly notes: readonly string[]
  /** Everything measured. */
  readonly raw: unknown
}

/** When, and with which one-minute load before it. */
export interface MeasuredPart extends Part {
  readonly key: string
  readonly date: string
  readonly load: number
}

export const isMet = ({ figure, limit, sense }: Bar): boolean | undefined =>
  figure === undefined || Number.isNaN(figure)
    ? undefined
    : sense === 'at most'
      ? figure <= limit
      : figure >= limit
