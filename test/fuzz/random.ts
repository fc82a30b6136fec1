/**
 * A small seeded generator, so that every fuzz run can be repeated (mulberry32).
 * Invariant: the same seed gives the same inputs on every machine.
 */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** 0 <= x < bound. */
  below(bound: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296) * bound)
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)))
  }

  /** A few small changes: flips, cuts, insertions, doubled parts, lengths off by one. */
  mutate(bytes: Buffer): Buffer {
    let out = Buffer.from(bytes)
    for (let rounds = 1 + this.below(4); rounds > 0; rounds--) {
      const at = this.below(out.length + 1)
      switch (this.below(6)) {
        case 0:
          if (at < out.length) out[at] = this.below(256)
          break
        case 1:
          if (at < out.length) out[at] = (out[at]! + (this.below(2) === 0 ? 1 : 255)) & 0xff
          break
        case 2:
          out = Buffer.concat([
            out.subarray(0, at),
            this.bytes(1 + this.below(4)),
            out.subarray(at),
          ])
          break
        case 3:
          out = Buffer.concat([out.subarray(0, at), out.subarray(at + 1 + this.below(4))])
          break
        case 4:
          out = out.subarray(0, at)
          break
        case 5: {
          const end = Math.min(out.length, at + this.below(20))
          out = Buffer.concat([out.subarray(0, end), out.subarray(at)])
          break
        }
      }
    }
    return out
  }
}

/** Inputs a run: `FUZZ_N`, else short enough for every CI run. */
export const runs = Number(process.env['FUZZ_N'] ?? 20_000)
export const seed = Number(process.env['FUZZ_SEED'] ?? 20_261_123)
