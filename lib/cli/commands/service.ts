/**
 * `agentjail service install|uninstall|status|logs NAME`: jails that start at boot.
 */
import { realpathSync } from 'node:fs'
import { JailError } from '../../errors.js'
import { parseJailName } from '../../plan/names.js'
import { serviceManager, serviceSpec } from '../../service/service.js'
import { loadConfig } from '../../setup/config.js'
import { realSystem } from '../../system/real.js'
import type { CommandIo } from '../io.js'

export interface ServiceArgs {
  readonly action: 'install' | 'uninstall' | 'status' | 'logs'
  readonly name: string
  readonly policies: readonly string[]
  readonly credentials: readonly string[]
  readonly command: readonly string[]
  /** install: only show what would be written. */
  readonly print: boolean
  readonly lines: number
}

/** Exit 0; `status`: 3 when it does not run, as systemctl answers. Throws USAGE, NOT_ROOT, STATE, ... */
export async function serviceCommand(args: ServiceArgs, io: CommandIo): Promise<number> {
  const name = parseJailName(args.name)
  const system = realSystem()
  const { logDir } = await loadConfig()
  const manager = await serviceManager(system, logDir, args.print)
  if (args.action !== 'status' && !args.print && process.geteuid?.() !== 0)
    throw new JailError('NOT_ROOT', 'services of the system need root', {
      hint: `sudo agentjail service ${args.action} ${name}`,
    })
  switch (args.action) {
    case 'install': {
      const spec = await serviceSpec(system, {
        ...args,
        name,
        cwd: process.cwd(),
        node: realpathSync(process.execPath),
        program: realpathSync(process.argv[1] ?? ''),
        logDir,
      })
      const { path, text } = manager.render(spec)
      if (args.print) {
        io.stdout.write(`# ${path}\n${text}`)
        return 0
      }
      await manager.install(spec)
      io.stdout.write(`${name} runs, and starts at each boot (${path})\n`)
      return 0
    }
    case 'uninstall': {
      const wasThere = await manager.uninstall(name)
      io.stdout.write(
        wasThere ? `${name} is stopped and removed\n` : `there was no service ${name}\n`,
      )
      return 0
    }
    case 'status': {
      const { state, pid, lastExit } = await manager.status(name)
      const more = [
        ...(pid === undefined ? [] : [`pid ${String(pid)}`]),
        ...(lastExit === undefined ? [] : [`last exit: ${lastExit}`]),
      ]
      io.stdout.write(`${name}: ${[state, ...more].join(', ')}\n`)
      return state === 'running' ? 0 : 3
    }
    case 'logs':
      io.stdout.write(await manager.logs(name, args.lines))
      return 0
  }
}
