/**
 * What a jail's own network namespace is given besides its rules, in both of Linux's backends. Data.
 * Invariant: nothing of it leads out of `lo`.
 */

/**
 * Addresses of the jail's own beside the loopback's, where nothing is: C libraries take a family for not configured
 * that has none (AI_ADDRCONFIG of getaddrinfo(3)), and then look up no name in it.
 * IPv4: the dummy address (RFC 7600). IPv6: a unique local one (RFC 4193), from which programs prefer IPv4 for what is
 * global (RFC 6724, rule 5). What the gate answers over UDP and IPv6 comes from that address, too.
 */
export const dummyAddresses = { v4: '192.0.0.8', v6: 'fd6a:6169:6c00::1' } as const

/** As `ip -batch` reads it: every address is local. The gate's first step says the same by netlink. */
export function loopbackSetUp(): string[] {
  const { v4, v6 } = dummyAddresses
  return [
    'link set lo up',
    `addr replace ${v4}/32 dev lo`,
    `addr replace ${v6}/128 dev lo`,
    // Metric and table `local` are the kernel's defaults for the type.
    'route add local 0.0.0.0/0 dev lo',
    'route add local ::/0 dev lo',
  ]
}
