/** Medians and quantiles; NaN of nothing. */

export function quantile(values: readonly number[], at: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * at))] ?? NaN
}

export const median = (values: readonly number[]): number => quantile(values, 0.5)

/** The median of one round's value over the same round's other: what the machine did meanwhile counts for both. */
export const medianRatio = (over: readonly number[], under: readonly number[]): number =>
  median(over.map((value, round) => value / (under[round] ?? NaN)).filter(Number.isFinite))

export const digits = (value: number | undefined, count = 3): string =>
  value === undefined || Number.isNaN(value)
    ? 'n/a'
    : value >= 1000
      ? Math.round(value).toLocaleString('en')
      : String(Number(value.toPrecision(count)))
