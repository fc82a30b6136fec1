/**
 * Has the static deny loaded at each boot, by the init system that is there.
 * Invariant: `install` and `remove` are idempotent; nothing but our own files is touched.
 */
import { JailError } from '../errors.js'
import { findTool } from '../system/tools.js'
import type { Argv, System } from '../system/types.js'
import { bootLine, paths, renderOpenrc, renderUnit, unitName } from './units.js'
import type { DenyLoad } from './units.js'

export interface Boot {
  readonly kind: 'systemd' | 'openrc' | 'none'
  /** Where nothing can be installed: what its owner has to have done at each boot. */
  readonly byHand?: string
  isInstalled(): Promise<boolean>
  install(): Promise<void>
  remove(): Promise<void>
  /** What `install` does, for people. */
  readonly lines: readonly string[]
}

export async function findBoot(system: System, load: DenyLoad): Promise<Boot> {
  const systemctl = findTool('systemctl')
  if (systemctl.state === 'found') return systemdBoot(system, load, systemctl.path)
  const rcUpdate = findTool('rc-update')
  if (rcUpdate.state === 'found' && (await system.lstat('/sbin/openrc-run')) !== undefined) {
    return openrcBoot(system, load, rcUpdate.path)
  }
  const byHand = `no systemd or OpenRC here: at boot, before the network and cron: ${bootLine(load)}`
  return {
    kind: 'none',
    byHand,
    isInstalled: () => Promise.resolve(false),
    install: () => Promise.resolve(),
    remove: () => Promise.resolve(),
    lines: [`# ${byHand}`],
  }
}

function systemdBoot(system: System, load: DenyLoad, systemctl: string): Boot {
  const text = renderUnit(load)
  // Without a running systemd (an image being built), `enable` still makes the links.
  const reload = async (): Promise<void> => {
    if ((await system.lstat('/run/systemd/system')) === undefined) return
    await must(system, [systemctl, 'daemon-reload'])
  }
  return {
    kind: 'systemd',
    isInstalled: async () =>
      (await system.readFile(paths.unit)) === text &&
      (await system.lstat(`/etc/systemd/system/sysinit.target.wants/${unitName}`)) !== undefined,
    install: async () => {
      await system.writeFile(paths.unit, text, 0o644)
      await reload()
      await must(system, [systemctl, 'enable', unitName])
    },
    remove: async () => {
      if ((await system.lstat(paths.unit)) === undefined) return
      await must(system, [systemctl, 'disable', unitName])
      await system.removeFile(paths.unit)
      await reload()
    },
    lines: [`write ${paths.unit}`, `systemctl enable ${unitName}`],
  }
}

function openrcBoot(system: System, load: DenyLoad, rcUpdate: string): Boot {
  const text = renderOpenrc(load)
  const link = '/etc/runlevels/boot/agentjail-deny'
  return {
    kind: 'openrc',
    isInstalled: async () =>
      (await system.readFile(paths.openrc)) === text && (await system.lstat(link)) !== undefined,
    install: async () => {
      await system.writeFile(paths.openrc, text, 0o755)
      await must(system, [rcUpdate, 'add', 'agentjail-deny', 'boot'])
    },
    remove: async () => {
      if ((await system.lstat(paths.openrc)) === undefined) return
      await must(system, [rcUpdate, 'delete', 'agentjail-deny', 'boot'])
      await system.removeFile(paths.openrc)
    },
    lines: [`write ${paths.openrc}`, 'rc-update add agentjail-deny boot'],
  }
}

async function must(system: System, argv: Argv): Promise<void> {
  const { code, stderr } = await system.run(argv, { timeout: 60_000 })
  if (code === 0) return
  const said = stderr.trim().split('\n').at(-1) ?? ''
  throw new JailError('STATE', `${argv.join(' ')} failed (${String(code)}): ${said}`)
}
