/**
 * Starts a command in its jail and reports what becomes of it.
 * Invariant: the command's variables and arguments travel on a pipe that only the last step, already
 * the service user, reads; no process that still has privilege ever has them in its environment.
 */
import type { ChildProcess } from 'node:child_process'
import { mkdirSync, realpathSync } from 'node:fs'
import type { Writable } from 'node:stream'
import { JailError, errorMessage } from '../errors.js'
import { bareNotes, systemRoots, writeCa } from './bare.js'
import { prepareCgroup, ensureSocketGroup, type Cgroup } from './cgroup.js'
import { startFirstStep } from './first-step.js'
import type { ForkServer } from './fork-server.js'
import { fds, planLaunch } from './launch-plan.js'
import type { LaunchTools } from './launch-tools.js'
import { fullLines, rlimits } from './limits.js'
import { probeMounts, treesOf, type MountFacts } from './mount-facts.js'
import { caVariables, planMounts, type Trust } from './mount-plan.js'
import { compileSeccomp } from './seccomp.js'
import { Supervised } from './supervised.js'
import { parseMachine } from '../system/syscall-numbers.js'
import type { LaunchSpec, Running } from './types.js'
import { shareByAcl } from './workspace-acl.js'
import { sweepTrees } from './workspace-sweep.js'

/**
 * Resolves once the command runs (or could not be executed: then `ended` gives 126 or 127).
 * @param go the last step waits for it before it becomes the command: all steps before are agentjail's own. Rejects: nothing runs.
 * @param server may have forked the first step; absent: it is spawned.
 * @throws JailError LAUNCH, TOOL_MISSING, PLATFORM where it could not be launched at all; what `go` rejected with.
 */
export async function launch(
  asked: LaunchSpec,
  tools: LaunchTools,
  go: Promise<unknown> = Promise.resolve(),
  server?: ForkServer,
): Promise<Running> {
  // What comes before anybody waits for it takes time, with access lists for one.
  go.catch(() => undefined)
  const spec = { ...asked, cwd: realDirectory(asked.cwd) }
  const out = new Set(spec.without)
  if (!tools.namespaces && spec.isolation !== 'basic') {
    throw new JailError(
      'LAUNCH',
      `isolation ${spec.isolation} needs namespaces, which root may not make here`,
      {
        hint: 'in a container, add CAP_SYS_ADMIN, or use --isolation basic: see docs/containers.md',
      },
    )
  }
  const walled =
    spec.isolation !== 'basic' && !out.has('mount-namespace') && !out.has('no-new-privs')
  const facts = walled ? probeMounts(spec) : undefined
  try {
    return await launchOnce(spec, tools, facts, 'idmap', go, server)
  } catch (error) {
    // File systems without idmapped mounts (overlayfs, NFS, ...), kernels before 5.12.
    if (facts === undefined || !errorMessage(error).includes(idmapRefused)) throw error
    return launchOnce(spec, tools, facts, 'acl', go)
  }
}

/** Trees are mounted at their real paths, so the command starts at one. */
function realDirectory(path: string): string {
  try {
    return realpathSync(path)
  } catch (error) {
    throw new JailError('LAUNCH', `the working directory ${path}: ${errorMessage(error)}`, {
      hint: 'start from a directory that exists',
    })
  }
}

/** @param facts where the system's roots are mounted over; undefined: they stay as they are. */
async function trustOf(own: string, facts: MountFacts | undefined): Promise<Trust> {
  const caText = facts === undefined ? systemRoots() : facts.caText
  const merged = `${caText || (await builtInRoots())}\n${own}\n`
  if (facts === undefined || facts.javaStores.length === 0) return { own, merged }
  const { javaTrust } = await import('./java-trust.js')
  return { own, merged, java: javaTrust(merged) }
}

/** How the outer step begins its message where the kernel has no idmapped mount for a tree. */
const idmapRefused = 'the launch failed: idmap'

async function launchOnce(
  spec: LaunchSpec,
  tools: LaunchTools,
  facts: MountFacts | undefined,
  share: 'idmap' | 'acl',
  go: Promise<unknown>,
  server?: ForkServer,
): Promise<Running> {
  // Not awaited where there is none: the first step is to be spawned in the caller's own turn.
  const trust = spec.extraCa === undefined ? undefined : await trustOf(spec.extraCa, facts)
  const machine = parseMachine(process.arch)
  const out = new Set(spec.without)
  const notes = [...(facts?.notes ?? []), ...bareNotes(spec, tools.namespaces)]
  const sockets = out.has('network') ? undefined : socketGroup(spec)
  const cgroup = out.has('limits') ? undefined : group(spec, notes)
  const isOpen = facts === undefined && spec.isolation === 'basic'
  const ca =
    isOpen && trust !== undefined ? writeCa(`${tools.caDir}/${spec.jail}`, trust) : undefined
  const variables = ca?.variables ?? (spec.extraCa === undefined ? [] : caVariables)
  const env = new Map([...variables, ...spec.env])
  if (facts !== undefined) mkdirSync(tools.stagingDir, { recursive: true, mode: 0o700 })
  const undos: (() => Promise<readonly string[]>)[] = []
  const undo = async (full: ReadonlySet<string> = new Set()): Promise<readonly string[]> => {
    const lines = [...(cgroup?.hit() ?? []), ...fullLines(full, spec.limits)]
    if (spec.joins === true) return lines
    await cgroup?.remove()
    ca?.remove()
    for (const step of undos.splice(0)) {
      lines.push(...(await step()))
    }
    return lines
  }
  if (facts !== undefined) undos.push(() => sweepTrees(spec, facts.trees))
  let child: ChildProcess
  let words: Buffer
  try {
    const plan = planLaunch({
      spec: { ...spec, env },
      tools,
      machine,
      ...(facts === undefined
        ? {}
        : {
            mounts: planMounts(spec, facts, tools.stagingDir, {
              idmap: share === 'idmap',
              trust,
            }),
          }),
      ...(out.has('seccomp')
        ? {}
        : {
            filter: compileSeccomp(machine, {
              userNamespaces: spec.userNamespaces,
              multicast: spec.isolation === 'namespace',
            }),
          }),
      rlimits: out.has('limits') ? '' : rlimits(spec.limits, cgroup !== undefined),
      cgroups: [...(sockets === undefined ? [] : [sockets]), ...(cgroup?.join ?? [])],
    })
    // Without mounts, where they are: a directory that the jail may write lets it put another file in a guarded one's place.
    const shared = isOpen ? treesOf(spec, notes) : share === 'acl' ? facts?.trees : undefined
    if (shared !== undefined && spec.joins !== true) {
      const sharing = await shareByAcl(spec, shared, tools.perl)
      notes.push(...sharing.notes)
      undos.push(() => sharing.undo())
    }
    words = plan.words
    child = startFirstStep(tools.perl, spec.stdio, server)
    pipe(child, fds.steps)?.end(plan.steps)
  } catch (error) {
    await undo()
    throw error
  }
  const running = new Supervised(child, notes, undo)
  let refused: { readonly why: unknown } | undefined
  go.then(
    () => pipe(child, fds.spec)?.end(words),
    (why: unknown) => {
      refused = { why }
      running.kill()
    },
  )
  try {
    const begun = await running.begun()
    if (refused === undefined) return begun
    // The kernel ended the last step before PID 1, which then had a word of it.
    await begun.ended
  } catch (error) {
    if (refused === undefined) throw error
  }
  throw refused.why
}

/** Loaded only where needed: it is a large part of Node. */
async function builtInRoots(): Promise<string> {
  const { rootCertificates } = await import('node:tls')
  return rootCertificates.join('\n')
}

/** Without it the firewall would not know the command's sockets: no launch then. */
function socketGroup({ group }: LaunchSpec): string | undefined {
  try {
    return group === undefined ? undefined : ensureSocketGroup(group)
  } catch (error) {
    throw new JailError('LAUNCH', `the control group of the jail: ${errorMessage(error)}`, {
      hint: 'isolation namespace needs none',
    })
  }
}

function group(spec: LaunchSpec, notes: string[]): Cgroup | undefined {
  try {
    return prepareCgroup(spec.jail, spec.limits, undefined, spec.group)
  } catch (error) {
    notes.push(
      `no control groups (${errorMessage(error)}): limits hold for each process alone, limits.cpu not at all`,
    )
    return undefined
  }
}

function pipe(child: ChildProcess, fd: number): Writable | null | undefined {
  return child.stdio[fd] as Writable | null | undefined
}
