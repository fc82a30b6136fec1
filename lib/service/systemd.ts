/**
 * Services on Linux: a systemd unit for each.
 * Invariant: every word reaches the command as written: nothing is expanded, split or taken for an option.
 */
import { JailError } from '../errors.js'
import type { JailName } from '../plan/names.js'
import type { Argv, System } from '../system/types.js'
import { runArguments, type ServiceManager, type ServiceSpec, type ServiceStatus } from './types.js'

const directory = '/etc/systemd/system'

const serviceUnit = (name: string): string => `agentjail-jail-${name}.service`
const pathOf = (name: string): string => `${directory}/${serviceUnit(name)}`

export function systemdServices(
  system: System,
  tools: { readonly systemctl: string; readonly journalctl: string },
): ServiceManager {
  const must = async (...args: string[]): Promise<void> => {
    const argv: Argv = [tools.systemctl, ...args]
    const result = await system.run(argv, { timeout: 90_000 })
    if (result.code === 0) return
    throw new JailError(
      'STATE',
      `systemctl ${args.join(' ')}: ${result.stderr.trim().split('\n').at(-1) ?? `code ${String(result.code)}`}`,
      { hint: 'where systemd is not running, start agentjail run from your own supervisor' },
    )
  }
  return {
    render: renderUnit,
    install: async (spec) => {
      const { path, text } = renderUnit(spec)
      await system.writeFile(path, text, 0o644)
      try {
        await must('daemon-reload')
        await must('enable', serviceUnit(spec.name))
        await must('restart', serviceUnit(spec.name))
      } catch (error) {
        await system.run([tools.systemctl, 'disable', '--now', serviceUnit(spec.name)])
        await system.removeFile(path)
        await system.run([tools.systemctl, 'daemon-reload'])
        throw error
      }
    },
    uninstall: async (name) => {
      const isThere = (await system.lstat(pathOf(name))) !== undefined
      if (isThere) await must('disable', '--now', serviceUnit(name))
      await system.removeFile(pathOf(name))
      if (isThere) await must('daemon-reload')
      return isThere
    },
    status: (name) => status(system, tools.systemctl, name),
    logs: async (name, lines) => {
      const argv = ['--unit', serviceUnit(name), '--lines', String(lines), '--no-pager'] as const
      return (await system.run([tools.journalctl, ...argv])).stdout
    },
  }
}

/** What the launch itself needs (namespaces, mounts, control groups, other uids) stays open; the rest is closed. */
function renderUnit(spec: ServiceSpec): { path: string; text: string } {
  const credentials = [...spec.credentials].map(
    ([id, file]) => `LoadCredential=${bare(`${id}:${file}`)}\n`,
  )
  const text = `[Unit]
Description=agentjail: ${spec.name}
Wants=network-online.target
After=network-online.target agentjail-deny.service

[Service]
Type=exec
ExecStart=${runArguments(spec).map(quote).join(' ')}
WorkingDirectory=${bare(spec.cwd)}
${credentials.join('')}Restart=always
RestartSec=10
# agentjail ends the command and takes its rules out; what is left after that is ended by systemd.
KillMode=mixed
TimeoutStopSec=30
# The command's limits are control groups below this one.
Delegate=yes
UMask=0077
KeyringMode=private
LockPersonality=yes
ProtectClock=yes
ProtectKernelLogs=yes
RestrictRealtime=yes

[Install]
WantedBy=multi-user.target
`
  return { path: pathOf(spec.name), text }
}

async function status(system: System, systemctl: string, name: JailName): Promise<ServiceStatus> {
  const properties = 'LoadState,ActiveState,SubState,MainPID,Result,ExecMainStatus'
  const argv = ['show', '--property', properties, serviceUnit(name)] as const
  const { stdout } = await system.run([systemctl, ...argv])
  const values = new Map(
    stdout.split('\n').map((line): [string, string] => {
      const at = line.indexOf('=')
      return [line.slice(0, at), line.slice(at + 1)]
    }),
  )
  if (values.get('LoadState') !== 'loaded') return { state: 'not installed' }
  const pid = Number(values.get('MainPID'))
  const active = values.get('ActiveState')
  const result = values.get('Result')
  return {
    state:
      active === 'active'
        ? 'running'
        : values.get('SubState') === 'auto-restart'
          ? 'waiting'
          : 'stopped',
    ...(pid > 0 ? { pid } : {}),
    ...(result === undefined || result === 'success'
      ? {}
      : { lastExit: `${result} ${values.get('ExecMainStatus') ?? ''}`.trim() }),
  }
}

/** One word of ExecStart (systemd.service(5), "Command lines"): quoted, specifiers and variables doubled. */
function quote(word: string): string {
  const escaped = checked(word)
    .replace(/\\/g, '\\\\')
    .replace(/"/g, '\\"')
    .replace(/%/g, '%%')
    .replace(/\$/g, '$$$$')
  return `"${escaped}"`
}

/** A value that takes the rest of its line. */
function bare(value: string): string {
  return checked(value).replace(/%/g, '%%')
}

function checked(text: string): string {
  if (!/[\u0000-\u001f\u007f]/.test(text)) return text
  throw new JailError('USAGE', `${JSON.stringify(text.slice(0, 80))} cannot stand in a unit`, {
    hint: 'leave control characters out of the command and its paths',
  })
}
