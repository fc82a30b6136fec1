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
  unit: `/etc/systemd/system/${unitName}`,
  tmpfiles: '/etc/tmpfiles.d/agentjail.conf',
  openrc: '/etc/init.d/agentjail-deny',
} as const

/**
 * nftables.service flushes the ruleset when it starts and reloads (Debian, Fedora and Arch ship such a
 * configuration), so the deny comes after it, and again with each reload and restart of it.
 */
export function renderUnit(nft: string): string {
  return `[Unit]
Description=agentjail: no network for the reserved users
DefaultDependencies=no
RequiresMountsFor=${paths.configDir} ${nft}
After=nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
Wants=network-pre.target
Before=network-pre.target cron.service crond.service cronie.service anacron.service atd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${nft} -f ${paths.denyRules}
ExecReload=${nft} -f ${paths.denyRules}
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_NET_ADMIN
ProtectSystem=strict
ProtectHome=yes

[Install]
WantedBy=sysinit.target
`
}

/** tmpfiles.d(5): the state is gone with each boot, its directory comes back. */
export function renderTmpfiles(stateDir: string): string {
  return `d ${stateDir} 0700 root root -\n`
}

/** OpenRC (Alpine, Gentoo): openrc-run(8). */
export function renderOpenrc(nft: string): string {
  return `#!/sbin/openrc-run
description="agentjail: no network for the reserved users"

depend() {
	need localmount
	after nftables
	before net cronie dcron fcron crond atd
}

start() {
	ebegin "Closing the network for agentjail's reserved users"
	${nft} -f ${paths.denyRules}
	eend $?
}

stop() {
	return 0
}
`
}

/** Where neither is there: the line for whatever runs first at boot. */
export function bootLine(nft: string): string {
  return `${nft} -f ${paths.denyRules}`
}
