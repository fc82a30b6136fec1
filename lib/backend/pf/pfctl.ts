/**
 * The calls of pfctl that agentjail makes, and no other.
 * Invariant: never `-f` or `-F` without `-a`, never `-e` or `-d`: other tools' rules and references stay theirs.
 */
import { JailError } from '../../errors.js'
import type { Argv, CommandResult, System } from '../../system/types.js'
import { parseEnabled, parseReferences, parseSkipped, parseToken } from './listing.js'

const program = '/sbin/pfctl'
const perl = '/usr/bin/perl'
/** Concurrent loads of one anchor by others answer "Resource busy". */
const busyRetries = 8
const busyPause = 60

/**
 * Becomes pfctl after writing down who it is; what pfctl says goes into the same file. Whoever is killed meanwhile, the
 * file tells whose the reference is.
 */
const enableScript = `use Fcntl;
my ($file, @command) = @ARGV;
sysopen my $out, $file, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600 or die "$file: $!\\n";
syswrite $out, "$$\\n";
open STDERR, '>&', $out or exit 1;
exec { $command[0] } @command;
exit 1`

export type PfListing = 'rules' | 'nat' | 'states' | 'info' | 'References'

export class Pfctl {
  readonly anchor: string
  readonly #system: System
  readonly #rulesPath: string

  /** `stateDir`: where what is being loaded lies meanwhile. */
  constructor(system: System, anchor: string, stateDir: string) {
    this.#system = system
    this.anchor = anchor
    this.#rulesPath = `${stateDir}/pf-rules`
  }

  /** Throws where pfctl says no. `main`: of the main ruleset, else of agentjail's anchor. */
  async list(what: PfListing, where: 'main' | 'anchor'): Promise<string> {
    const at = where === 'anchor' ? ['-a', this.anchor] : []
    const result = await this.#run('-q', ...at, '-s', what)
    if (result.code !== 0) throw refusal(`list ${what}`, result)
    return result.stdout
  }

  /** Parses without loading. */
  async check(text: string): Promise<void> {
    const result = await this.#system.run(this.#loading('-', '-n'), { input: text })
    if (result.code !== 0) throw refusal('accept the rules', result)
  }

  /**
   * Replaces the whole anchor in one transaction. `-o none`: the listing shows what was written. From a file: a pipe may
   * break off in the middle when this process is killed, and pfctl, which goes on alone, would load half of it, or all of
   * it after somebody else's load. pfctl opens its transaction before it reads; another load meanwhile makes it fail, and
   * after one the file is newer, or gone: see `endLoad`.
   */
  async load(text: string): Promise<void> {
    await this.#system.writeFile(this.#rulesPath, text, 0o600)
    for (let attempt = 0; ; attempt++) {
      const result = await this.#system.run(this.#loading(this.#rulesPath))
      if (result.code === 0) return
      if (!result.stderr.includes('Resource busy') || attempt === busyRetries)
        throw refusal('load the rules', result)
      await this.#system.sleep(busyPause)
    }
  }

  /** What a load leaves, also one that failed or was killed. */
  async endLoad(): Promise<void> {
    await this.#system.removeFile(this.#rulesPath)
  }

  /** In force for new packets when it resolves. */
  async replaceTable(name: string, addresses: readonly string[]): Promise<void> {
    const command = addresses.length === 0 ? ['flush'] : ['replace', ...addresses]
    const result = await this.#run('-q', '-a', this.anchor, '-t', name, '-T', ...command)
    if (result.code !== 0) throw refusal(`fill table ${name}`, result)
  }

  /** Undefined: no such table. */
  async showTable(name: string): Promise<string | undefined> {
    const result = await this.#run('-q', '-a', this.anchor, '-t', name, '-T', 'show')
    return result.code === 0 ? result.stdout : undefined
  }

  /** Names of the anchor's tables. */
  async tables(): Promise<readonly string[]> {
    const result = await this.#run('-q', '-a', this.anchor, '-s', 'Tables')
    // An anchor that holds nothing is none.
    if (result.code !== 0 && !result.stderr.includes('does not exist'))
      throw refusal('list Tables', result)
    return result.stdout.split('\n').filter((name) => name !== '')
  }

  async killTable(name: string): Promise<void> {
    const result = await this.#run('-q', '-a', this.anchor, '-t', name, '-T', 'kill')
    if (result.code !== 0) throw refusal(`remove table ${name}`, result)
  }

  async killStates(from: string, to: string): Promise<void> {
    const result = await this.#run('-q', '-k', from, '-k', to)
    if (result.code !== 0) throw refusal('end connections', result)
  }

  async isEnabled(): Promise<boolean> {
    const enabled = parseEnabled(await this.list('info', 'main'))
    if (enabled === undefined)
      throw new JailError('BACKEND', 'pfctl shows no status', {
        hint: 'see: sudo pfctl -s info',
      })
    return enabled
  }

  /** Token to the pid of the pfctl that took it. */
  async tokens(): Promise<ReadonlyMap<string, number>> {
    return parseReferences(await this.list('References', 'main'))
  }

  /** Interfaces whose packets pf does not look at. */
  async skipped(): Promise<readonly string[]> {
    const result = await this.#run('-q', '-v', '-s', 'Interfaces')
    if (result.code !== 0) throw refusal('list Interfaces', result)
    return parseSkipped(result.stdout)
  }

  /**
   * Takes a reference; pf stays on at least until it is released. Without -q, which hides the token.
   * `journal`: path of a file that names it even if nobody comes back to read it: see `enabledBy`.
   */
  async enable(journal: string): Promise<string> {
    const argv = [perl, '-e', enableScript, '--', journal, program, '-E'] as const
    const { code, stderr } = await this.#system.run(argv)
    const said = (await this.#system.readFile(journal)) ?? ''
    const token = parseToken(said)
    if (code !== 0 || token === undefined)
      throw refusal('be enabled', { code, stdout: '', stderr: stderr + said.replace(/^\d+\n/, '') })
    return token
  }

  /** The reference that an `enable` with this journal took, whatever became of its caller. */
  async enabledBy(journal: string): Promise<string | undefined> {
    const said = await this.#system.readFile(journal)
    if (said === undefined) return undefined
    const tokens = await this.tokens()
    const token = parseToken(said)
    if (token !== undefined) return tokens.has(token) ? token : undefined
    // pfctl itself was ended between taking it and saying so.
    const pid = Number(/^(\d+)\n/.exec(said)?.[1])
    return [...tokens].find(([, owner]) => owner === pid)?.[0]
  }

  /** Gives it back. One that is gone already (a reboot, somebody's `pfctl -d`) is no error. */
  async release(token: string): Promise<void> {
    const result = await this.#run('-X', token)
    if (result.code === 0 || !(await this.tokens()).has(token)) return
    throw refusal('release its reference', result)
  }

  #loading(file: string, ...more: string[]): Argv {
    return [program, ...more, '-q', '-a', this.anchor, '-o', 'none', '-f', file]
  }

  #run(...args: string[]): Promise<CommandResult> {
    return this.#system.run([program, ...args])
  }
}

/** pfctl warns on every call; the exit code judges, the last line of its own tells. */
function refusal(what: string, { code, stderr }: CommandResult): JailError {
  const noise = /^(No ALTQ|ALTQ related|pfctl: Use of -f|present in the main|See \/etc\/pf\.conf|$)/
  const lines = stderr.split('\n').filter((line) => !noise.test(line))
  const said = lines.at(0) ?? `code ${String(code)}`
  const hint = /Operation not permitted|Permission denied/.test(stderr)
    ? 'run as root; where a device management profile forbids pf, agentjail cannot work on this Mac'
    : 'see: sudo pfctl -s info; sudo pfctl -sr'
  return new JailError('BACKEND', `pf does not ${what}: ${said.slice(0, 300)}`, { hint })
}
