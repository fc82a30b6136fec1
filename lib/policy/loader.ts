/**
 * Policies from disk: bundled ones by name, own ones by path, with all they extend.
 * Invariant: a file that anyone but root or the caller could have written, or put in place, is refused;
 * owner and mode are those of the open descriptor, not of a path that may change in between.
 */
import { constants, existsSync, readdirSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { basename, dirname, extname, isAbsolute, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { JailError, errnoCode, errorMessage } from '../errors.js'
import { composeLayers } from './compose.js'
import { nearest } from './keys.js'
import type { ExtendsRef, Layer } from './layer.js'
import { type PolicyProblem, formatProblem, parsePolicy } from './parse.js'
import { quote } from './problem.js'
import { maxPolicyBytes } from './read/document.js'
import { checkTrust } from './trust.js'
import type { Origin, Policy } from './types.js'

export interface LoadOptions {
  /** Relative paths start here. Default: the process's working directory. */
  readonly cwd?: string
  /** Who may own a policy besides root. Default: the process's real uid. */
  readonly callerUid?: number
}

/** Mistakes of policies, all of them, each with its place. `message` has one line for each. */
export class PolicyError extends JailError {
  readonly problems: readonly PolicyProblem[]

  constructor(problems: readonly PolicyProblem[]) {
    super('POLICY_INVALID', problems.map(formatProblem).join('\n'))
    this.problems = problems
  }
}

/** How deep `extends` may go, and how many files may come together. */
const maxDepth = 16
const maxFiles = 64

/**
 * Loads one policy, or several to be composed, the last winning. At least one.
 * @throws JailError POLICY_NOT_FOUND, POLICY_UNSAFE or POLICY_INVALID.
 */
export async function loadPolicies(
  refs: readonly string[],
  options: LoadOptions = {},
): Promise<Policy> {
  const loader = new Loader(options.callerUid ?? process.getuid?.() ?? 0)
  const tops: { name: string; source: string }[] = []
  for (const ref of refs) {
    const target = locate(ref, options.cwd ?? process.cwd())
    tops.push({ name: await loader.load(target, []), source: target.source })
  }
  if (loader.problems.length > 0) throw new PolicyError(loader.problems)
  const composed = composeLayers(loader.layers, tops)
  if (composed.problems) throw new PolicyError(composed.problems)
  return composed.policy
}

/** One policy by its name or path. */
export function loadPolicy(ref: string, options: LoadOptions = {}): Promise<Policy> {
  return loadPolicies([ref], options)
}

interface Target {
  /** What messages call it: the path, or `bundle:NAME`. */
  readonly source: string
  readonly path: string
  readonly name: string
  readonly isBundled: boolean
}

function locate(ref: string, cwd: string, from?: Origin): Target {
  const bundled = ref.startsWith('bundle:') ? ref.slice(7) : undefined
  const isPath = bundled === undefined && (ref.includes('/') || /\.(?:ya?ml|json)$/.test(ref))
  if (isPath && !ref.includes('\0')) {
    const path = isAbsolute(ref) ? resolve(ref) : resolve(cwd, ref)
    const source = isAbsolute(ref) || from ? path : ref
    return { source, path, name: nameOfFile(path), isBundled: false }
  }
  const name = bundled ?? ref
  if (!/^[a-z][a-z0-9-]{0,62}$/.test(name)) throw notFound(name, from)
  const path = join(bundleDir(), `${name}.yaml`)
  if (!existsSync(path)) throw notFound(name, from)
  return { source: `bundle:${name}`, path, name, isBundled: true }
}

/** A file's stem made a policy's name; `policy` where nothing is left of it. */
function nameOfFile(path: string): string {
  const stem = basename(path, extname(path))
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
  return /^[^a-z]*(.*?)-*$/.exec(stem)?.[1]?.slice(0, 63) || 'policy'
}

function notFound(name: string, from: Origin | undefined): JailError {
  const place = from ? `${from.file}:${String(from.line)}:${String(from.column)}: ` : ''
  const near = nearest(name, bundledNames())
  return new JailError('POLICY_NOT_FOUND', `${place}no bundled policy is named ${quote(name)}`, {
    hint: near
      ? `did you mean ${near}? agentjail policy list shows all; a file needs its path: ./NAME.yaml`
      : 'agentjail policy list shows all; a file needs its path: ./NAME.yaml',
  })
}

class Loader {
  readonly layers: Layer[] = []
  readonly problems: PolicyProblem[] = []
  /** Of the files that are in already, by path. */
  readonly #names = new Map<string, string>()
  readonly #callerUid: number

  constructor(callerUid: number) {
    this.#callerUid = callerUid
  }

  /** Appends the file's bases and then the file itself to `layers`, each file once. */
  async load(target: Target, chain: readonly Target[]): Promise<string> {
    const known = this.#names.get(target.path)
    if (known !== undefined) return known
    const text = target.isBundled
      ? await readPlain(target.path)
      : await readTrusted(target.path, target.source, this.#callerUid)
    const { layer, problems = [], bases = layer?.extends ?? [] } = parsePolicy(text, target.source)
    this.problems.push(...problems)
    for (const base of bases) await this.#loadBase(base, [...chain, target])
    const name = layer?.name ?? target.name
    this.#names.set(target.path, name)
    if (layer) this.layers.push(layer)
    return name
  }

  async #loadBase({ ref, origin }: ExtendsRef, chain: readonly Target[]): Promise<void> {
    const fail = (problem: string, hint: string): void => {
      this.problems.push({ origin, problem, hint })
    }
    const from = chain.at(-1)
    if (!from) return
    const base = locate(ref, dirname(from.path), origin)
    const at = chain.findIndex(({ path }) => path === base.path)
    if (chain.length >= maxDepth || this.#names.size >= maxFiles) {
      fail('extends goes too far', `at most ${String(maxDepth)} deep and ${String(maxFiles)} files`)
    } else if (from.isBundled && !base.isBundled) {
      fail('a bundled policy extends a file', 'extend a bundled policy by name')
    } else if (at >= 0) {
      const circle = [...chain.slice(at), base].map(({ source }) => source).join(' -> ')
      fail(`extends runs in a circle: ${circle}`, 'drop one of them')
    } else if (!base.isBundled && !existsSync(base.path)) {
      const hint = 'a path starts from the directory of this file; a bundled policy has no slash'
      fail(`there is no policy file ${base.source}`, hint)
    } else await this.load(base, chain)
  }
}

async function readPlain(path: string): Promise<string> {
  const file = await open(path, constants.O_RDONLY)
  try {
    return await file.readFile('utf8')
  } finally {
    await file.close()
  }
}

/** Reads a file of the user's after checking who could have written it. */
async function readTrusted(path: string, source: string, callerUid: number): Promise<string> {
  const file = await openPolicy(path, source)
  try {
    const stats = await file.stat()
    if (!stats.isFile()) {
      throw new JailError('POLICY_NOT_FOUND', `${source} is not a file`, {
        hint: 'name a policy file, e.g. ./policy.yaml',
      })
    }
    await checkTrust(path, source, file, callerUid)
    if (stats.size > maxPolicyBytes) {
      throw new JailError('POLICY_INVALID', `${source} is larger than 1 MiB`, {
        hint: 'split it and use extends',
      })
    }
    // Not readFile: a file that grows meanwhile must not be read without end.
    const buffer = Buffer.alloc(maxPolicyBytes + 1)
    let length = 0
    for (;;) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length, length)
      length += bytesRead
      if (bytesRead === 0 || length === buffer.length) break
    }
    return decodeText(buffer.subarray(0, length), source)
  } finally {
    await file.close()
  }
}

function decodeText(bytes: Uint8Array, source: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new JailError('POLICY_INVALID', `${source} is not UTF-8 text`, {
      hint: 'save it as plain UTF-8',
      cause,
    })
  }
}

async function openPolicy(path: string, source: string): Promise<FileHandle> {
  try {
    // Not blocking: a FIFO in the place of a policy must not hold the start up.
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch (cause) {
    if (['ENOENT', 'ENOTDIR'].includes(errnoCode(cause) ?? '')) {
      throw new JailError('POLICY_NOT_FOUND', `there is no policy file ${source}`, {
        hint: 'check the path; a bundled policy is named without a slash (agentjail policy list)',
        cause,
      })
    }
    throw new JailError('POLICY_NOT_FOUND', `${source} can't be read: ${errorMessage(cause)}`, {
      hint: 'check its mode and those of its directories',
      cause,
    })
  }
}

let foundBundleDir: string | undefined

/** The package's policies/: above this module, wherever it was built to. */
export function bundleDir(): string {
  if (foundBundleDir !== undefined) return foundBundleDir
  for (let dir = dirname(fileURLToPath(import.meta.url)); ; dir = dirname(dir)) {
    const candidate = join(dir, 'policies')
    if (existsSync(join(candidate, 'policy.schema.json'))) return (foundBundleDir = candidate)
    if (dirname(dir) === dir) {
      throw new JailError('POLICY_NOT_FOUND', 'the bundled policies are missing', {
        hint: 'install agentjail again',
      })
    }
  }
}

/** Names of the bundled policies. */
export function bundledNames(): readonly string[] {
  try {
    return readdirSync(bundleDir())
      .filter((file) => file.endsWith('.yaml'))
      .map((file) => file.slice(0, -5))
      .sort()
  } catch {
    return []
  }
}

/** The bundled policies, by name, each with its description. */
export async function listBundled(): Promise<
  readonly { readonly name: string; readonly description: string }[]
> {
  return Promise.all(
    bundledNames().map(async (name) => {
      const parsed = parsePolicy(
        await readPlain(join(bundleDir(), `${name}.yaml`)),
        `bundle:${name}`,
      )
      if (parsed.problems) throw new PolicyError(parsed.problems)
      return { name, description: parsed.layer.description ?? '' }
    }),
  )
}
