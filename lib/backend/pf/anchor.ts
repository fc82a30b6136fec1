/**
 * Agentjail's anchor as a whole: what is in it, loading it, reading it back, pf's reference.
 * Invariant: an opening change that cannot be verified is taken back before it is reported; a closing one stays.
 * All but `difference` are called under the lock.
 */
import { errorMessage, JailError } from '../../errors.js'
import { revoke } from '../../system/licence.js'
import type { System } from '../../system/types.js'
import type { UidRange } from '../types.js'
import { compilePf } from './compile.js'
import { findDifference, findPlace, parseServices, parseTable, type Services } from './listing.js'
import { Pfctl } from './pfctl.js'
import { removeLogDevice } from './log.js'
import { isOwnTable } from './names.js'
import { listedRedirects, listedRules, printRuleset } from './print.js'
import { storeFile, type PfStore, type StoreFile } from './store.js'
import type { PfRuleset } from './types.js'

/** `pfctl -d` may come between taking the reference and looking. */
const enableAttempts = 3
const empty: PfRuleset = { tables: [], redirects: [], rules: [] }

export class PfAnchor {
  readonly pfctl: Pfctl
  readonly #system: System
  readonly #store: StoreFile
  readonly #range: UidRange
  readonly #ownAddresses: () => readonly string[]
  readonly #warn: (text: string) => void
  readonly #warned = new Set<string>()
  readonly #journal: string
  readonly #logLicence: string
  #services: Services | undefined

  constructor(options: {
    system: System
    anchor: string
    stateDir: string
    range: UidRange
    ownAddresses: () => readonly string[]
    warn: (text: string) => void
  }) {
    this.#system = options.system
    this.pfctl = new Pfctl(options.system, options.anchor, options.stateDir)
    this.#store = storeFile(options.system, options.stateDir)
    this.#range = options.range
    this.#ownAddresses = options.ownAddresses
    this.#journal = `${options.stateDir}/pf-enable`
    this.#logLicence = `${options.stateDir}/pf-log`
    this.#warn = options.warn
  }

  read(): Promise<PfStore> {
    return this.#store.read()
  }

  /** Loads what `mutate` makes of the present content. `opening`: taken back when it fails. */
  async change(kind: 'opening' | 'closing', mutate: (store: PfStore) => PfStore): Promise<void> {
    const before = await this.#store.read()
    const next = mutate(before)
    if (kind === 'opening') {
      await this.checkPlace(next)
      await this.pfctl.check(printRuleset(this.#ruleset(next)))
    }
    await this.#store.write(next)
    try {
      await this.put(next)
    } catch (error) {
      if (kind === 'closing') throw error
      await this.#takeBack(before, error)
      throw error
    }
  }

  /** Loads exactly this, enables pf or gives its reference back, reads all of it back. */
  async put(store: PfStore): Promise<void> {
    const ruleset = this.#ruleset(store)
    await this.pfctl.load(printRuleset(ruleset))
    await this.#verifyRules(ruleset)
    await this.tidy(store)
    const kept = await this.#endLog(store)
    if (isNeeded(kept)) await this.#ensureEnabled(kept)
    else await this.#release(kept)
  }

  /**
   * Takes away what a load leaves: its file; and tables that it does not name, if they are `persist`, addresses and all:
   * whoever has the uid next would find them. Others' are not touched.
   */
  async tidy(store: PfStore): Promise<void> {
    await this.pfctl.endLoad()
    const named = new Set(this.#ruleset(store).tables.map(({ name }) => name))
    for (const name of await this.pfctl.tables())
      if (isOwnTable(name) && !named.has(name)) await this.pfctl.killTable(name)
  }

  /** Notes, before it is made, that pflog0 is agentjail's; or that it is not. Gives the licence to make it. */
  async claimLog(isOurs: boolean): Promise<string> {
    const { log: _, ...store } = await this.#store.read()
    if (!isOurs) await this.#system.removeFile(this.#logLicence)
    await this.#store.write(isOurs ? { ...store, log: true } : store)
    if (isOurs) await this.#system.writeFile(this.#logLicence, '', 0o600)
    return this.#logLicence
  }

  /** After an opening that failed. */
  async releaseLog(): Promise<void> {
    const store = await this.#endLog(await this.#store.read())
    if (!isNeeded(store) && store.token === undefined && store.log === undefined)
      await this.#store.remove()
  }

  /** Without a jail nobody reads pflog0; where it cannot be removed now, the next end tries again. */
  async #endLog(store: PfStore): Promise<PfStore> {
    if (store.log !== true || store.jails.length > 0) return store
    await this.#system.removeFile(await revoke(this.#system, this.#logLicence))
    if (!(await removeLogDevice(this.#system))) return store
    const { log: _, ...without } = store
    await this.#store.write(without)
    return without
  }

  /** What is not as it should be, in words; undefined: all is. Changes nothing, needs no lock. */
  async difference(store: PfStore): Promise<string | undefined> {
    if (!(await this.pfctl.isEnabled())) return 'pf is disabled'
    if (store.token === undefined || !(await this.pfctl.tokens()).has(store.token))
      return "agentjail's reference on pf is gone"
    const place = findPlace(await this.pfctl.list('rules', 'main'), this.pfctl.anchor, 'anchor')
    if (!place.called) return `the main ruleset no longer calls ${this.pfctl.anchor}`
    if (place.overtakenBy !== undefined) return `the main ruleset passes: ${place.overtakenBy}`
    const open = (await this.pfctl.skipped()).filter((name) => !mayBeSkipped(store, name))
    if (open.length > 0) return `pf does not look at ${open.join(', ')}`
    return await this.#ruleDifference(this.#ruleset(store))
  }

  /** Transparent jails tell loopback traffic by it; addresses of interfaces come and go. */
  async refreshOwnAddresses(store: PfStore): Promise<void> {
    for (const { name, addresses } of this.#ruleset(store).tables) {
      if (addresses === undefined) continue
      const shown = await this.pfctl.showTable(name)
      if (shown === undefined || parseTable(shown).sort().join() !== [...addresses].sort().join())
        await this.pfctl.replaceTable(name, addresses)
    }
  }

  /** Whether the main ruleset evaluates the anchor, and nothing lets packets past it. */
  async checkPlace(store: PfStore): Promise<void> {
    const { anchor } = this.pfctl
    const place = findPlace(await this.pfctl.list('rules', 'main'), anchor, 'anchor')
    if (!place.called) throw notCalled(anchor, 'anchor')
    if (place.overtakenBy !== undefined)
      throw new JailError(
        'BACKEND',
        `a rule of the main ruleset overtakes agentjail's: ${place.overtakenBy}`,
        {
          hint: 'it stands before the line that calls agentjail: move it after, or make it less wide',
        },
      )
    const others = place.before.filter((name) => !name.startsWith('com.apple'))
    if (others.length > 0)
      this.#warnOnce(`pf anchors of others are evaluated first: ${others.join(', ')}`)
    await this.#checkSkipped(store)
    if (!store.jails.some(({ takeovers }) => takeovers.length > 0)) return
    const nat = findPlace(await this.pfctl.list('nat', 'main'), anchor, 'rdr-anchor')
    if (!nat.called) throw notCalled(anchor, 'rdr-anchor')
  }

  /**
   * `set skip on lo0`, which sharing the network with virtual machines sets too, leaves loopback to the sandbox profile
   * and the gate's password. On any other interface there is nothing behind pf.
   */
  async #checkSkipped(store: PfStore): Promise<void> {
    const skipped = await this.pfctl.skipped()
    const open = skipped.filter((name) => !mayBeSkipped(store, name))
    if (open.length > 0)
      throw new JailError(
        'BACKEND',
        `pf does not look at packets of ${open.join(', ')} ("set skip")`,
        {
          hint: skipped.every((name) => isLoopback(name))
            ? 'redirects of "transparent: true" need lo0: leave it away, or stop Internet Sharing and virtual machines, remove "set skip on lo0" from /etc/pf.conf, and restart the Mac'
            : 'remove it from "set skip on" in /etc/pf.conf, and restart the Mac',
        },
      )
    if (skipped.length > 0)
      this.#warnOnce(
        'pf does not look at lo0 (virtual machines or Internet Sharing set that): services of this machine are kept from the command by the sandbox profile alone',
      )
  }

  #warnOnce(text: string): void {
    if (!this.#warned.has(text)) this.#warn(text)
    this.#warned.add(text)
  }

  #ruleset(store: PfStore): PfRuleset {
    if (!isNeeded(store)) return empty
    return compilePf(store.jails, store.range ?? this.#range, this.#ownAddresses())
  }

  async #verifyRules(ruleset: PfRuleset): Promise<void> {
    const difference = await this.#ruleDifference(ruleset)
    if (difference === undefined) return
    throw new JailError('VERIFY_FAILED', `pf does not hold what was loaded: ${difference}`, {
      hint: 'another tool may be changing the same anchor; some releases of macOS needed a restart after an update',
    })
  }

  async #ruleDifference(ruleset: PfRuleset): Promise<string | undefined> {
    this.#services ??= parseServices((await this.#system.readFile('/etc/services')) ?? '')
    const rules = await this.pfctl.list('rules', 'anchor')
    const redirects = await this.pfctl.list('nat', 'anchor')
    return (
      findDifference(listedRules(ruleset), rules, this.#services) ??
      findDifference(listedRedirects(ruleset), redirects, this.#services)
    )
  }

  /** One reference for all jails; taken anew where somebody's `pfctl -d` voided it. */
  async #ensureEnabled(store: PfStore): Promise<void> {
    for (let attempt = 0; attempt < enableAttempts; attempt++)
      if (await this.#enable(attempt === 0 ? store : await this.#store.read())) return
    throw new JailError('VERIFY_FAILED', 'pf was enabled and is disabled', {
      hint: 'another tool switches it off: find it with: sudo pfctl -s References',
    })
  }

  /** False: somebody switched it off meanwhile. */
  async #enable(store: PfStore): Promise<boolean> {
    const left = await this.pfctl.enabledBy(this.#journal)
    const held = store.token !== undefined && (await this.pfctl.tokens()).has(store.token)
    if (!held) {
      const token = left ?? (await this.pfctl.enable(this.#journal))
      try {
        await this.#store.write({ ...store, token })
      } catch (error) {
        await this.pfctl.release(token)
        throw error
      }
    } else if (left !== store.token) {
      if (left !== undefined) await this.pfctl.release(left)
      await this.#system.removeFile(this.#journal)
    }
    return await this.pfctl.isEnabled()
  }

  async #release(store: PfStore): Promise<void> {
    const left = await this.pfctl.enabledBy(this.#journal)
    if (store.token !== undefined) await this.pfctl.release(store.token)
    if (left !== undefined && left !== store.token) await this.pfctl.release(left)
    await this.#system.removeFile(this.#journal)
    await this.#store.remove()
  }

  async #takeBack(before: PfStore, cause: unknown): Promise<void> {
    try {
      // The reference may be newer than `before`: released with the rest where nothing else needs it.
      const { token } = await this.#store.read()
      const back = { ...before, ...(token === undefined ? {} : { token }) }
      await this.#store.write(back)
      await this.put(back)
    } catch (error) {
      throw new JailError(
        'CLEANUP_PARTIAL',
        `${errorMessage(cause)}; and what was loaded could not be taken back: ${errorMessage(error)}`,
        { hint: 'no command was started; clear it with: agentjail gc', cause },
      )
    }
  }
}

/** Rules, and pf itself, are wanted as long as a jail runs or the static deny stands. */
function isNeeded(store: PfStore): boolean {
  return store.jails.length > 0 || store.range !== undefined
}

function isLoopback(name: string): boolean {
  return name === 'lo0' || name === 'lo'
}

/** Redirects happen on lo0. */
function mayBeSkipped({ jails }: PfStore, name: string): boolean {
  return isLoopback(name) && jails.every(({ takeovers }) => takeovers.length === 0)
}

function notCalled(anchor: string, word: 'anchor' | 'rdr-anchor'): JailError {
  const line = `${word} "${anchor.startsWith('com.apple/') ? 'com.apple/*' : anchor}"`
  return new JailError('BACKEND', `pf's main ruleset has no line: ${line}`, {
    hint: `another tool replaced the main ruleset; restart the Mac, or add the line to /etc/pf.conf in its place`,
  })
}
