/**
 * The files that make the static deny come back at each boot. Pure.
 * Invariant: the deny is loaded before any network and before cron and at, whose old jobs may belong
 * to a jail's user; it is never taken out by stopping the unit.
 */

export const unitName = 'agentjail-deny.service'
export const paths = {
  configDir: '/etc/agentjail',
  config: '/etc/agentjail/config.yaml',
  denyRules: '/etc/agentjail/static-deny.nft',
  denyIptables: {
    4: '/etc/agentjail/static-deny.iptables',
    6: '/etc/agentjail/static-deny.ip6tables',
  },
  unit: `/etc/systemd/system/${unitName}`,
  tmpfiles: '/etc/tmpfiles.d/agentjail.conf',
  openrc: '/etc/init.d/agentjail-deny',
} as const

/** How the deny comes in at boot. */
export interface DenyLoad {
  /** Each an absolute path and its arguments, none of which holds a blank. */
  readonly commands: readonly (readonly string[])[]
  /** Services that empty the firewall when they start, reload or stop, without `.service`. */
  readonly after: readonly string[]
  readonly capabilities: readonly string[]
  /** Directories written to. */
  readonly writes: readonly string[]
}

/**
 * nftables.service and those that restore iptables flush the ruleset when they start and reload (Debian, Fedora and Arch
 * ship such a configuration), so the deny comes after them, and again with each reload and restart of them.
 */
export function renderUnit({ commands, after, capabilities, writes }: DenyLoad): string {
  const others = after.map((name) => `${name}.service`).join(' ')
  const each = (key: string): string =>
    commands.map((command) => `${key}=${command.join(' ')}`).join('\n')
  const programs = commands.map(([program = '']) => program).join(' ')
  return `[Unit]
Description=agentjail: no network for the reserved users
DefaultDependencies=no
RequiresMountsFor=${paths.configDir} ${programs}
After=${others}
PartOf=${others}
ReloadPropagatedFrom=${others}
Wants=network-pre.target
Before=network-pre.target cron.service crond.service cronie.service anacron.service atd.service

[Service]
Type=oneshot
RemainAfterExit=yes
${each('ExecStart')}
${each('ExecReload')}
NoNewPrivileges=yes
CapabilityBoundingSet=${capabilities.join(' ')}
ProtectSystem=strict
${writes.length === 0 ? '' : `ReadWritePaths=${writes.join(' ')}\n`}ProtectHome=yes

[Install]
WantedBy=sysinit.target
`
}

/** tmpfiles.d(5): the state is gone with each boot, its directory comes back. */
export function renderTmpfiles(stateDir: string): string {
  return `d ${stateDir} 0700 root root -\n`
}

/** OpenRC (Alpine, Gentoo): openrc-run(8). */
export function renderOpenrc({ commands, after }: DenyLoad): string {
  return `#!/sbin/openrc-run
description="agentjail: no network for the reserved users"

depend() {
	need localmount
	after ${after.join(' ')}
	before net cronie dcron fcron crond atd
}

start() {
	ebegin "Closing the network for agentjail's reserved users"
	${bootLine({ commands })}
	eend $?
}

stop() {
	return 0
}
`
}

/** Where neither is there: the line for whatever runs first at boot. */
export function bootLine({ commands }: Pick<DenyLoad, 'commands'>): string {
  return commands.map((command) => command.join(' ')).join(' && ')
}
