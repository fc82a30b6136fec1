/**
 * `run --container IMAGE`: an engine gives the image's files and settings, once for each image; the jail itself is made as
 * always, with these files as its root. No container runs, and nothing of the engine is inside.
 * Invariant: the files lie where root alone comes, and are whole or not there.
 */
import { JailError } from '../errors.js'
import { findTool } from '../system/tools.js'
import type { Argv, System } from '../system/types.js'

const engines = ['podman', 'docker'] as const

/** What a launch needs to have the image as its root. */
export interface ImageRoot {
  /** Directory of the image's files. */
  readonly root: string
  /** What the launch brings along of the host's: its perl, the loader of that, libraries and the one module it loads. */
  readonly perl: string
  readonly loader: string
  readonly libraries: readonly string[]
}

export interface Image extends ImageRoot {
  readonly entrypoint: readonly string[]
  /** Name to value. */
  readonly env: ReadonlyMap<string, string>
}

/** Milliseconds: a large image is copied. */
const timeout = 15 * 60_000
/** Digests only: what an engine says becomes a path. */
const digest = /^(?:sha256:)?([0-9a-f]{64})$/

/**
 * @param dir root's own, e.g. /var/lib/agentjail/images.
 * @throws JailError TOOL_MISSING without an engine, LAUNCH for what it refuses.
 */
export async function openImage(system: System, dir: string, name: string): Promise<Image> {
  if (name === '' || name.startsWith('-')) {
    throw new JailError('USAGE', `${JSON.stringify(name)} is not an image`, {
      hint: 'for example: --container docker.io/library/node:22',
    })
  }
  const engine = findEngine()
  const { id, config } = await inspect(system, engine, name)
  const root = `${dir}/${id}`
  if ((await system.lstat(root)) === undefined) await copy(system, engine, id, dir)
  return { root, ...(await loaderOf(system, mustFind('perl'))), ...parseConfig(config) }
}

function findEngine(): string {
  for (const name of engines) {
    const found = findTool(name)
    if (found.state === 'found') return found.path
    if (found.state === 'unsafe')
      throw new JailError('TOOL_MISSING', `${found.path} is not safe to run as root`, {
        hint: found.problem,
      })
  }
  throw new JailError('TOOL_MISSING', `--container needs ${engines.join(' or ')}`, {
    hint: 'install one; it is asked for the files of the image, and runs nothing',
  })
}

async function inspect(
  system: System,
  engine: string,
  name: string,
): Promise<{ id: string; config: unknown }> {
  const ask = (): ReturnType<System['run']> =>
    system.run([engine, 'image', 'inspect', '--', name], { timeout, env: engineEnv() })
  let answer = await ask()
  if (answer.code !== 0) {
    await must(system, [engine, 'pull', '--quiet', '--', name])
    answer = await ask()
  }
  const [found] = answer.code === 0 ? (JSON.parse(answer.stdout) as unknown[]) : []
  const { Id, Config } = (found ?? {}) as { Id?: unknown; Config?: unknown }
  const id = typeof Id === 'string' ? digest.exec(Id)?.[1] : undefined
  if (id !== undefined) return { id, config: Config }
  throw new JailError('LAUNCH', `the engine does not know the image ${name}`, {
    hint: `see: ${engine} images`,
  })
}

/** Under another name first: what is there is whole. */
async function copy(system: System, engine: string, id: string, dir: string): Promise<void> {
  const [name, part] = [`agentjail-${process.pid}`, `${dir}/${id}.${process.pid}.part`]
  const archive = `${part}.tar`
  await system.makeDir(dir, 0o700)
  await system.makeDir(part, 0o755)
  try {
    // It is never started; the word stands for a command, which some images have none of.
    await must(system, [engine, 'create', '--name', name, id, 'agentjail'])
    try {
      await must(system, [engine, 'export', '--output', archive, name])
    } finally {
      await system.run([engine, 'rm', '--force', name], { timeout, env: engineEnv() })
    }
    const into = ['--file', archive, '--directory', part, '--numeric-owner'] as const
    await must(system, [tar(), '--extract', ...into, '--exclude=dev/*', '--exclude=./dev/*'])
    // What the launch lays over, where an image has none.
    await system.makeDir(`${part}/etc`, 0o755)
    for (const file of ['resolv.conf', 'hosts', 'passwd', 'group'])
      if ((await system.lstat(`${part}/etc/${file}`)) === undefined)
        await system.writeFile(`${part}/etc/${file}`, '', 0o644)
    await must(system, [mv(), '--no-target-directory', part, `${dir}/${id}`])
  } finally {
    await system.removeDir(part)
    await system.removeFile(archive)
  }
}

const tar = (): string => mustFind('tar')
const mv = (): string => mustFind('mv')

function mustFind(name: string): string {
  const found = findTool(name)
  if (found.state === 'found') return found.path
  throw new JailError('TOOL_MISSING', `${name} is not installed`)
}

/** Where an engine looks for its own settings; nothing else of the caller's. */
function engineEnv(): Record<string, string> {
  const names = ['CONTAINERS_STORAGE_CONF', 'DOCKER_HOST', 'DOCKER_CONFIG', 'XDG_RUNTIME_DIR']
  return {
    HOME: '/root',
    ...Object.fromEntries(
      names.flatMap((name) => {
        const value = process.env[name]
        return value === undefined ? [] : [[name, value]]
      }),
    ),
  }
}

async function must(system: System, argv: Argv): Promise<void> {
  const { code, stderr } = await system.run(argv, { timeout, env: engineEnv() })
  if (code === 0) return
  const said = stderr.trim().split('\n').at(-1)?.slice(0, 300) ?? ''
  throw new JailError('LAUNCH', `${argv[0]} ${argv[1] ?? ''} failed: ${said}`)
}

/** The image may have no perl, and another libc: the launch's own comes with its loader and libraries. */
async function loaderOf(system: System, perl: string): Promise<Omit<ImageRoot, 'root'>> {
  const [listed, module] = await Promise.all([
    system.run([mustFind('ldd'), perl]),
    system.run([perl, '-Mstrict', '-e', 'print $INC{"strict.pm"}']),
  ])
  const { loader, libraries } = parseLdd(listed.stdout)
  return { perl, loader, libraries: [...libraries, module.stdout] }
}

/** @param text lines of ldd(1): `NAME => PATH (ADDRESS)`, and the loader's `PATH (ADDRESS)`. */
export function parseLdd(text: string): Pick<ImageRoot, 'loader' | 'libraries'> {
  const libraries = [...text.matchAll(/=> (\/\S+) \(/g)].flatMap(([, path]) => path ?? [])
  const loader = /^\s+(\/\S*ld-\S+) \(/m.exec(text)?.[1]
  if (loader !== undefined) return { loader, libraries }
  throw new JailError('LAUNCH', 'the loader of perl is not known: --container cannot be used here')
}

/** @param config an engine's `.Config` of an image. */
export function parseConfig(config: unknown): Pick<Image, 'entrypoint' | 'env'> {
  const { Entrypoint, Env } = (config ?? {}) as { Entrypoint?: unknown; Env?: unknown }
  const strings = (value: unknown): string[] =>
    Array.isArray(value) ? value.filter((one): one is string => typeof one === 'string') : []
  return {
    entrypoint: strings(Entrypoint),
    env: new Map(
      strings(Env).flatMap((pair): [string, string][] => {
        const at = pair.indexOf('=')
        return at > 0 ? [[pair.slice(0, at), pair.slice(at + 1)]] : []
      }),
    ),
  }
}
