/** pfctl as macOS has it, over the modelled state: its noise on stderr, its exit codes, its refusals. */
import { isIP } from 'node:net'
import type { Parsed } from './pf/ast.js'
import { formatRule } from './pf/format.js'
import { PfSyntaxError } from './pf/lex.js'
import { parsePf } from './pf/parse.js'
import { answer, type Answer, type MacState } from './state.js'

const usage = 'usage: pfctl [-AdeghmNnOqRrvz] [-a anchor] [-D macro=value] [-F modifier] ...\n'
const fWarning =
  'pfctl: Use of -f option, could result in flushing of rules\npresent in the main ruleset added by the system at startup.\nSee /etc/pf.conf for further details.\n\n'
const altq = 'No ALTQ support in kernel\nALTQ related functions disabled\n'
const withValue = 'aDFfikKopstTxXw'
const flags = 'AdeEghmMnNOqrRvzG'
const shows = [
  'nat',
  'queue',
  'rules',
  'Anchors',
  'Sources',
  'states',
  'info',
  'Interfaces',
  'labels',
  'timeouts',
  'memory',
  'Tables',
  'osfp',
  'References',
  'dummynet',
  'all',
]
const flushes = [
  'nat',
  'queue',
  'rules',
  'Sources',
  'states',
  'info',
  'Tables',
  'osfp',
  'dummynet',
  'all',
]
const tableCommands = [
  'kill',
  'flush',
  'add',
  'delete',
  'load',
  'replace',
  'show',
  'test',
  'zero',
  'expire',
]
const optimizations = ['none', 'basic', 'profile']
const serviceNames = new Map([
  [22, 'ssh'],
  [53, 'domain'],
  [80, 'http'],
  [443, 'https'],
  [465, 'smtps'],
  [5432, 'postgresql'],
])

const counters = `  [ Evaluations: ${'0'.padEnd(8)}  Packets: ${'0'.padEnd(8)}  Bytes: ${'0'.padEnd(10)}  States: ${'0'.padEnd(6)}]
  [ Inserted: uid 0 pid 4242 ]
`

interface Options {
  flags: Set<string>
  /** How often -v was given. */
  verbosity: number
  values: Map<string, string[]>
  rest: string[]
}

export function pfctl(state: MacState, args: readonly string[], input: string): Answer {
  const options = getopt(args)
  if (options === undefined || args.length === 0 || options.flags.has('h'))
    return answer(1, '', usage)
  const run = new Pfctl(state, options, input)
  return run.run()
}

function getopt(args: readonly string[]): Options | undefined {
  const options: Options = { flags: new Set(), verbosity: 0, values: new Map(), rest: [] }
  let at = 0
  for (; at < args.length; at++) {
    const arg = args[at] ?? ''
    if (!arg.startsWith('-') || arg === '-') break
    if (arg === '--') {
      at++
      break
    }
    for (let index = 1; index < arg.length; index++) {
      const letter = arg[index] ?? ''
      if (withValue.includes(letter)) {
        const value = index + 1 < arg.length ? arg.slice(index + 1) : args[++at]
        if (value === undefined) return undefined
        options.values.set(letter, [...(options.values.get(letter) ?? []), value])
        break
      }
      if (!flags.includes(letter)) return undefined
      options.flags.add(letter)
      if (letter === 'v') options.verbosity++
    }
  }
  options.rest = args.slice(at)
  return options
}

class Pfctl {
  #out = ''
  #err = ''
  readonly #state: MacState
  readonly #options: Options
  readonly #input: string
  readonly #quiet: boolean
  readonly #dry: boolean

  constructor(state: MacState, options: Options, input: string) {
    this.#state = state
    this.#options = options
    this.#input = input
    this.#quiet = options.flags.has('q')
    this.#dry = options.flags.has('n')
  }

  run(): Answer {
    const { pf } = this.#state
    if (this.#value('f') !== undefined) this.#err += fWarning
    const tableCommand = this.#value('T')
    if (this.#options.rest.length > 0 && tableCommand === undefined)
      return this.#fail(
        1,
        `pfctl: unknown command line argument: ${this.#options.rest.join(' ')} ...\n${usage}`,
      )
    const optimization = this.#value('o')
    if (optimization !== undefined && !optimizations.some((one) => one.startsWith(optimization)))
      return this.#fail(1, `pfctl: Unknown optimization '${optimization}'\n${usage}`)
    const anchor = (this.#value('a') ?? '').replace(/\/?\*$/, '')
    const changes = this.#value('f') !== undefined || this.#value('F') !== undefined
    if (changes && anchor.split('/').some((part) => part.startsWith('_')))
      return this.#fail(
        1,
        "pfctl: anchor names beginning with '_' cannot be modified from the command line\n",
      )
    if (!this.#dry) {
      if (this.#state.euid !== 0) return this.#fail(1, 'pfctl: /dev/pf: Permission denied\n')
      if (this.#state.quirks.pfRefused)
        return this.#fail(1, 'pfctl: /dev/pf: Operation not permitted\n')
      if (!this.#quiet) this.#err += altq
      if (this.#options.flags.has('d')) {
        if (!pf.enabled) return this.#fail(1, 'pfctl: pf not enabled\n')
        Object.assign(pf, { enabled: false, tokens: [], anonymous: 0 })
        this.#tell('pf disabled\n')
      }
      for (const token of this.#values('X')) {
        const failed = this.#release(token)
        if (failed !== undefined) return failed
      }
      for (const what of this.#values('s')) {
        const failed = this.#show(what, anchor)
        if (failed !== undefined) return failed
      }
      for (const what of this.#values('F')) {
        const failed = this.#flush(what, anchor)
        if (failed !== undefined) return failed
      }
      const kills = this.#values('k')
      if (kills.length > 2) return this.#fail(1, usage)
      if (kills.length > 0) {
        const failed = this.#kill(kills)
        if (failed !== undefined) return failed
      }
    }
    if (tableCommand !== undefined) return this.#table(tableCommand, anchor)
    const file = this.#value('f')
    if (file !== undefined) {
      const failed = this.#load(file, anchor)
      if (failed !== undefined) return failed
    }
    if (!this.#dry && this.#options.flags.has('e')) {
      // It takes an anonymous reference also where all there are so far are tokens.
      if (pf.anonymous === 0) pf.anonymous++
      if (pf.enabled) return this.#fail(1, 'pfctl: pf already enabled\n')
      pf.enabled = true
      this.#tell('pf enabled\n')
    }
    if (!this.#dry && this.#options.flags.has('E')) {
      const value = String(15_000_000_000_000_000_000n + BigInt(this.#state.nextPid) * 7_919n)
      pf.tokens.push({ value, pid: this.#state.nextPid++, name: 'pfctl' })
      pf.enabled = true
      this.#tell(`pf enabled\nToken : ${value}\n`)
    }
    return answer(0, this.#out, this.#err)
  }

  #release(token: string): Answer | undefined {
    const { pf } = this.#state
    if (!/^\d+$/.test(token))
      return this.#fail(1, `pfctl: Invalid token value '${token}'\n${usage}`)
    if (!pf.enabled) return this.#fail(1, 'pfctl: pf not enabled\n')
    const index = pf.tokens.findIndex(({ value }) => value === token)
    if (index === -1) return this.#fail(1, 'pfctl: DIOCSTOPREF: Invalid argument\n')
    pf.tokens.splice(index, 1)
    const left = pf.tokens.length + pf.anonymous
    if (left === 0) pf.enabled = false
    this.#tell(
      left === 0
        ? 'pf disabled\n'
        : `disable request successful. ${String(left)} more pf enable reference(s) remaining, pf still enabled.\n`,
    )
    return undefined
  }

  #show(what: string, anchor: string): Answer | undefined {
    const { pf } = this.#state
    const kind = shows.find((name) => name.startsWith(what))
    if (kind === undefined) return this.#fail(1, `pfctl: Unknown show modifier '${what}'\n${usage}`)
    const parsed = this.#parsed(anchor)
    const names = this.#state.quirks.serviceNames ? serviceNames : new Map<number, string>()
    let index = 0
    const line = (text: string): void => {
      this.#out += `${text}\n`
    }
    switch (kind) {
      case 'rules':
        if (parsed === undefined || this.#value('a')?.endsWith('*') === true) {
          this.#err += 'pfctl: DIOCGETRULES: Invalid argument\n'
          break
        }
        for (const rule of parsed.statements) {
          const isShown =
            rule.kind === 'filter' ||
            rule.kind === 'anchor' ||
            (rule.kind === 'other' && rule.section === 'normalization')
          if (!isShown) continue
          const verbosity = this.#options.verbosity
          line(`${verbosity > 1 ? `@${String(index++)} ` : ''}${formatRule(rule, names)}`)
          if (verbosity > 0) this.#out += counters
        }
        break
      case 'nat':
        for (const rule of parsed?.statements ?? [])
          if (rule.kind === 'rdr' || (rule.kind === 'other' && rule.section === 'translation'))
            line(formatRule(rule, names))
        break
      case 'Anchors': {
        const prefix = anchor === '' ? '' : `${anchor}/`
        const recursive = this.#options.flags.has('v')
        const found = Object.keys(pf.anchors).filter(
          (path) =>
            path.startsWith(prefix) && (recursive || !path.slice(prefix.length).includes('/')),
        )
        if (anchor !== '' && parsed === undefined) this.#err += `Anchor '${anchor}' not found.\n`
        for (const path of found.sort()) line(`  ${path}`)
        break
      }
      case 'info':
        line(
          `Status: ${pf.enabled ? 'Enabled for 0 days 00:01:02' : 'Disabled'}`.padEnd(44) +
            'Debug: Urgent',
        )
        break
      case 'states':
        for (const { proto, from, to } of pf.states)
          line(`ALL ${proto} ${from} -> ${to}       ESTABLISHED:ESTABLISHED`)
        break
      case 'Interfaces':
        for (const name of ['ALL', ...this.#state.interfaces].sort()) {
          const isSkipped = this.#options.flags.has('v') && pf.skipped.includes(name)
          line(isSkipped ? `${name} (skip)` : name)
        }
        break
      case 'Tables':
        for (const key of Object.keys(pf.tables).sort())
          if (key.startsWith(`${anchor}\0`)) {
            const name = key.slice(anchor.length + 1)
            const flags = `-${pf.tables[key]?.persist === true ? 'p' : '-'}a-r-`
            line(this.#options.verbosity > 0 ? `${flags}\t${name}\t${anchor}` : name)
          }
        break
      case 'labels':
        for (const rule of parsed?.statements ?? [])
          if (rule.kind === 'filter' && rule.label !== undefined)
            line(`${rule.label} 0 0 0 0 0 0 0`)
        break
      case 'References':
        if (pf.tokens.length === 0) line('No pf starter references held')
        else {
          line('TOKENS:')
          line(`${'PID'.padEnd(8)} ${'Process Name'.padEnd(28)} ${'TOKEN'.padEnd(24)} TIMESTAMP`)
          for (const { pid, name, value } of pf.tokens)
            line(`${String(pid).padEnd(8)} ${name.padEnd(28)} ${value.padEnd(24)} 0 days 00:00:11`)
        }
        break
      default:
        break
    }
    return undefined
  }

  #flush(what: string, anchor: string): Answer | undefined {
    const { pf } = this.#state
    const kind = flushes.find((name) => name.startsWith(what))
    if (kind === undefined)
      return this.#fail(1, `pfctl: Unknown flush modifier '${what}'\n${usage}`)
    if (kind === 'rules' || kind === 'nat' || kind === 'all') {
      const keep = (section: string): boolean => (kind === 'nat') !== (section === 'rdr')
      const text = this.#parsed(anchor)?.statements ?? []
      const left =
        kind === 'all'
          ? ''
          : text
              .filter((rule) => keep(rule.kind))
              .map((rule) => `${formatRule(rule, new Map())}\n`)
              .join('')
      if (anchor === '') pf.main = left
      else if (left === '') Reflect.deleteProperty(pf.anchors, anchor)
      else pf.anchors[anchor] = left
      this.#tell(kind === 'nat' ? 'nat cleared\n' : 'rules cleared\n')
      if (kind === 'all') this.#tell('nat cleared\ndummynet cleared\n')
    }
    if (kind === 'Tables' || kind === 'all') {
      const gone = Object.keys(pf.tables).filter((key) => key.startsWith(`${anchor}\0`))
      for (const key of gone) Reflect.deleteProperty(pf.tables, key)
      this.#tell(`${String(gone.length)} tables deleted.\n`)
    }
    if (kind === 'states' || (kind === 'all' && anchor === '')) {
      this.#tell(`${String(pf.states.length)} states cleared\n`)
      pf.states = []
    }
    if (kind === 'all' && anchor === '') {
      this.#tell(
        'source tracking entries cleared\npf: statistics cleared\npf: interface flags reset\n',
      )
      pf.skipped = []
    }
    return undefined
  }

  #kill(hosts: string[]): Answer | undefined {
    const { pf } = this.#state
    for (const host of hosts)
      if (isIP(host.split('/')[0] ?? '') === 0 && this.#state.hosts[host] === undefined)
        return this.#fail(1, 'pfctl: getaddrinfo: nodename nor servname provided, or not known\n')
    const is = (wanted: string | undefined, end: string): boolean => {
      if (wanted === undefined || wanted === '0.0.0.0/0' || wanted === '::/0') return true
      return end.startsWith(wanted.includes(':') ? `${wanted}[` : `${wanted}:`)
    }
    const before = pf.states.length
    pf.states = pf.states.filter(({ from, to }) => !(is(hosts[0], from) && is(hosts[1], to)))
    this.#err += `killed ${String(before - pf.states.length)} states from 1 sources and ${String(hosts.length - 1)} destinations\n`
    return undefined
  }

  #load(file: string, anchor: string): Answer | undefined {
    const { pf, quirks, hosts } = this.#state
    const text = file === '-' ? this.#input : this.#state.files[file]?.text
    const name = file === '-' ? 'stdin' : file
    if (text === undefined)
      return this.#fail(
        1,
        `pfctl: ${file}: No such file or directory\npfctl: Syntax error in config file: pf rules not loaded\n`,
      )
    let parsed: Parsed
    try {
      parsed = parsePf(text, { hosts: new Map(Object.entries(hosts)), users: this.#users() })
    } catch (error) {
      if (!(error instanceof PfSyntaxError)) throw error
      const where = error.message.startsWith('no IP address') ? `${error.message}\n` : ''
      this.#err += `${where}${name}:${String(error.line)}: ${where === '' ? error.message : 'could not parse host specification'}\n`
      return this.#fail(
        1,
        this.#dry ? '' : 'pfctl: Syntax error in config file: pf rules not loaded\n',
      )
    }
    if (this.#options.verbosity > 0)
      for (const rule of parsed.statements) this.#out += `${formatRule(rule, new Map())}\n`
    if (this.#dry) return undefined
    if (quirks.busyLoads > 0) {
      quirks.busyLoads--
      return this.#fail(1, 'pfctl: DIOCXCOMMIT: Resource busy\n')
    }
    const { loseRule } = quirks
    const rules = text
      .split('\n')
      .filter(
        (line) => !line.startsWith('table') && (loseRule === undefined || !line.includes(loseRule)),
      )
      .join('\n')
    if (anchor === '') {
      pf.main = rules
      pf.skipped = []
    } else {
      pf.anchors[anchor] = rules
      // Parents are made implicitly.
      for (let parent = anchor; parent.includes('/');) {
        parent = parent.slice(0, parent.lastIndexOf('/'))
        pf.anchors[parent] ??= ''
      }
    }
    for (const { name: table, persist, entries } of parsed.tables) {
      const key = `${anchor}\0${table}`
      if (anchor !== '' && pf.tables[`\0${table}`] !== undefined)
        this.#err += `pfctl: warning: namespace collision with <${table}> global table.\n`
      const addresses = entries ?? pf.tables[key]?.addresses ?? []
      pf.tables[key] = { addresses: [...new Set(addresses)].sort(), persist }
    }
    const named = new Set(parsed.tables.map(({ name: table }) => table))
    for (const [key, { persist }] of Object.entries(pf.tables)) {
      const [path, table = ''] = key.split('\0')
      // What the file does not name is left alone: a `persist` table stays, with its addresses.
      if (path === anchor && !named.has(table) && !persist) Reflect.deleteProperty(pf.tables, key)
    }
    return undefined
  }

  #table(command: string, anchor: string): Answer {
    const { pf, hosts } = this.#state
    const kind = tableCommands.find((name) => name.startsWith(command))
    if (kind === undefined)
      return this.#fail(1, `pfctl: Unknown table command '${command}'\n${usage}`)
    const name = this.#value('t')
    if (name === undefined) return this.#fail(1, usage)
    const key = `${anchor}\0${name}`
    const addresses: string[] = []
    for (const text of this.#options.rest) {
      const literal = isIP(text.replace(/^!/, '').split('/')[0] ?? '') !== 0
      const found = literal ? [text] : hosts[text]
      if (found === undefined) return this.#fail(255, `pfctl: cannot decode ${text}\n`)
      addresses.push(...found)
    }
    const existing = pf.tables[key]
    const makes = kind === 'add' || kind === 'replace'
    if (existing === undefined && !makes)
      return this.#fail(
        255,
        anchor !== '' && pf.anchors[anchor] === undefined
          ? 'pfctl: Anchor or Ruleset does not exist.\n'
          : 'pfctl: Table does not exist.\n',
      )
    if (this.#dry) return answer(0, '', `${this.#err}(dummy).\n`)
    if (existing === undefined) this.#tell('1 table created.\n')
    const before = new Set(existing?.addresses ?? [])
    const store = (all: Iterable<string>): void => {
      pf.tables[key] = { addresses: [...new Set(all)].sort(), persist: existing?.persist ?? true }
    }
    const wanted = new Set(addresses)
    switch (kind) {
      case 'add':
        store([...before, ...wanted])
        this.#tell(
          `${String([...wanted].filter((each) => !before.has(each)).length)}/${String(wanted.size)} addresses added.\n`,
        )
        break
      case 'delete':
        store([...before].filter((each) => !wanted.has(each)))
        this.#tell(
          `${String([...wanted].filter((each) => before.has(each)).length)}/${String(wanted.size)} addresses deleted.\n`,
        )
        break
      case 'replace': {
        const added = [...wanted].filter((each) => !before.has(each)).length
        const deleted = [...before].filter((each) => !wanted.has(each)).length
        store(wanted)
        if (added > 0) this.#tell(`${String(added)} addresses added.\n`)
        if (deleted > 0) this.#tell(`${String(deleted)} addresses deleted.\n`)
        if (added + deleted === 0) this.#tell('no changes.\n')
        break
      }
      case 'flush':
        store([])
        this.#tell(`${String(before.size)} addresses deleted.\n`)
        break
      case 'kill':
        Reflect.deleteProperty(pf.tables, key)
        this.#tell('1 table deleted.\n')
        break
      case 'show':
        for (const each of before) this.#out += `${each.startsWith('!') ? '  ' : '   '}${each}\n`
        break
      case 'test': {
        const hit = [...wanted].filter((each) => before.has(each)).length
        this.#tell(`${String(hit)}/${String(wanted.size)} addresses match.\n`)
        return answer(hit === wanted.size ? 0 : 2, this.#out, this.#err)
      }
      default:
        break
    }
    return answer(0, this.#out, this.#err)
  }

  #parsed(anchor: string): Parsed | undefined {
    const text = anchor === '' ? this.#state.pf.main : this.#state.pf.anchors[anchor]
    if (text === undefined) return undefined
    return parsePf(text, { hosts: new Map(), users: this.#users() })
  }

  #users(): Map<string, number> {
    return new Map(
      Object.entries(this.#state.users).map(([name, record]) => [
        name,
        Number(record['UniqueID']?.[0]),
      ]),
    )
  }

  #value(letter: string): string | undefined {
    return this.#values(letter).at(-1)
  }

  #values(letter: string): string[] {
    return this.#options.values.get(letter) ?? []
  }

  #tell(text: string): void {
    if (!this.#quiet) this.#err += text
  }

  #fail(code: number, text: string): Answer {
    return answer(code, this.#out, this.#err + text)
  }
}
