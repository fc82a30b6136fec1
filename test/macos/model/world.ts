/** The modelled Mac's pf as the evaluator takes it. */
import { parsePf } from './pf/parse.js'
import type { PfWorld } from './pf/eval.js'
import type { MacState } from './state.js'

export function worldOf({ pf }: MacState): PfWorld {
  const none = { hosts: new Map(), users: new Map() }
  return {
    enabled: pf.enabled,
    skipped: pf.skipped,
    main: parsePf(pf.main, none),
    anchors: new Map(Object.entries(pf.anchors).map(([path, text]) => [path, parsePf(text, none)])),
    tables: new Map(Object.entries(pf.tables).map(([key, { addresses }]) => [key, addresses])),
    states: [],
  }
}
