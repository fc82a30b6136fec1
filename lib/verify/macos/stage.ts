/**
 * What `agentjail verify` brings with it on macOS: a wire, services on the Mac, things to steal or break.
 * Invariant: only new things of its own names; `close` takes all of it away, whatever failed.
 */
import { randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import type { System } from '../../system/types.js'
import { makeOwnDir } from '../own-dir.js'
import { answers, freePort, knock, openService, sendDatagram } from '../services.js'
import type { MacInsideConfig, Witness } from '../types.js'
import { openWire, wire, wireProbes } from './wire.js'

export interface MacStage {
  readonly config: Omit<MacInsideConfig, 'pids'>
  /** Stands for agentjail's own package. */
  readonly package: string
  witness(): Omit<Witness, 'leftover'>
  close(): Promise<void>
}

export async function openMacStage(
  system: System,
  names: { readonly granted: string; readonly other: string; readonly tunnel: string },
): Promise<MacStage> {
  const nonce = randomBytes(8).toString('hex')
  const undo: (() => unknown)[] = []
  const close = async (): Promise<void> => {
    for (const step of undo.splice(0).reverse())
      await Promise.resolve(step()).catch(() => undefined)
  }
  try {
    const cable = await openWire(system, names.tunnel, sendDatagram)
    undo.push(() => cable.close())
    const heard = { text: '' }
    const socketPath = `/var/run/agentjail-verify-${nonce}.sock`
    const hostPort = await openService({ paths: [socketPath], heard, undo })
    const inboundPort = await freePort()
    const knocking = setInterval(() => {
      knock('127.0.0.1', inboundPort, nonce)
    }, 150)
    undo.push(() => {
      clearInterval(knocking)
    })
    const files = await plantFiles(nonce, undo)
    return {
      package: `${files.workspace}/package`,
      config: {
        ...names,
        ...wire,
        ...files,
        nonce,
        hostPort,
        inboundPort,
        socketPath,
        metadata: await answers('169.254.169.254', 80),
        resolver: existsSync('/var/run/mDNSResponder'),
        keychain: existsSync('/Library/Keychains/System.keychain'),
        ...(await ownName()),
      },
      witness: () => {
        const tokens = heard.text.matchAll(new RegExp(`agentjail:${nonce}:([a-z0-9-]+);`, 'g'))
        const arrived = new Set([...cable.arrived, ...[...tokens].map(([, id]) => id ?? '')])
        return {
          arrived,
          counters: {
            icmp: Number(arrived.has('icmp')),
            icmpv6: Number(arrived.has('icmp-ipv6')),
            udpLite: 0,
          },
          control: arrived.has('control'),
          blind: blindness(cable.broken, arrived),
        }
      },
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** The probes that the wire cannot tell of. */
function blindness(
  broken: string | undefined,
  arrived: ReadonlySet<string>,
): ReadonlyMap<string, string> {
  const why = (id: string): string | undefined => {
    if (broken !== undefined) return `no wire to test it with: ${broken}`
    const own = /ipv6$/.test(id) ? 'wire6' : 'wire4'
    return arrived.has(own) ? undefined : 'the wire of the battery carries nothing'
  }
  return new Map(
    wireProbes.flatMap((id) => {
      const reason = why(id)
      return reason === undefined ? [] : [[id, reason] as const]
    }),
  )
}

/** The Mac's own name where the resolver, and no file, answers it. */
async function ownName(): Promise<{ hostName?: string }> {
  const hostName = hostname()
  const hosts = await readFile('/etc/hosts', 'utf8').catch(() => '')
  if (hosts.split(/\s+/).includes(hostName)) return {}
  return await lookup(hostName).then(
    () => ({ hostName }),
    () => ({}),
  )
}

type Planted = Pick<MacInsideConfig, 'workspace' | 'canary' | 'tmpMarker' | 'open'>

async function plantFiles(nonce: string, undo: (() => unknown)[]): Promise<Planted> {
  const root = await makeOwnDir('/Users/Shared', undo)
  const workspace = `${root}/work`
  const open = `${root}/open`
  for (const dir of [
    open,
    ...['', '/.git', '/.git/hooks', '/package'].map((at) => workspace + at),
  ]) {
    await mkdir(dir)
    await chmod(dir, 0o777)
  }
  const write = async (path: string, text: string, mode: number): Promise<void> => {
    await writeFile(path, text)
    await chmod(path, mode)
  }
  await write(`${workspace}/.git/HEAD`, 'ref: refs/heads/main\n', 0o666)
  await write(`${workspace}/.env`, `SECRET=${nonce}\n`, 0o644)
  await write(`${workspace}/package/code.js`, '// agentjail\n', 0o666)
  await write(`${root}/canary`, `${nonce}\n`, 0o644)
  const tmpMarker = `agentjail-verify-${nonce}`
  await mkdir(`/private/tmp/${tmpMarker}`)
  undo.push(() => rm(`/private/tmp/${tmpMarker}`, { recursive: true, force: true }))
  return { workspace, canary: `${root}/canary`, tmpMarker, open }
}
