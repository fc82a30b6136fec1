/**
 * `loopback.listen` in `isolation: uid` serves a port, and opens none: from it the command reaches nothing.
 * Judge: the kernel, in a network namespace in the host's place. Needs root.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { iptablesBackend } from '../lib/backend/iptables/index.js'
import { findIptables } from '../lib/backend/iptables/variant.js'
import { printTable } from '../lib/backend/nftables/print.js'
import { staticTable } from '../lib/backend/nftables/deny-tables.js'
import { uidBase } from '../lib/backend/nftables/uid-base.js'
import { uidJail } from '../lib/backend/nftables/uid-jail.js'
import type { NetworkPlan } from '../lib/backend/types.js'
import { realSystem } from '../lib/system/real.js'
import { findTools } from '../lib/system/tools.js'
import type { System } from '../lib/system/types.js'

const range = { first: 1_900_000_000, last: 1_900_099_999 }
const served = 3001
const plan: NetworkPlan = {
  ...{ jail: 'bot', uid: range.first + 7, isolation: 'uid', range, ipv6: true },
  ...{ gateTcp: [], gateUdp: [], pinned: [], kernel: [], loopbackConnect: [] },
  loopbackListen: [served],
}

/** Arguments: the jail's uid, the port that it may serve. Prints which attempts were answered. */
const attempts = String.raw`
use IO::Socket::INET; use strict; $| = 1;
my ($uid, $served) = @ARGV; my @children;
sub listen_on { IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $_[0], Listen => 5, ReuseAddr => 1) or die "listen: $!" }
sub become { $) = "$uid $uid"; $> = $uid; $> == $uid or die }
sub serve {
  my ($port, $who) = @_; pipe my $in, my $out; my $pid = fork;
  if (!$pid) { become() if $who; my $l = listen_on($port); close $out; while (my $c = $l->accept) { print {$c} "hello\n"; close $c } exit }
  push @children, $pid; close $out; readline $in;
}
sub reach {
  my ($name, $from, $to) = @_;
  my $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $to, LocalAddr => '127.0.0.1', LocalPort => $from, ReuseAddr => 1, Timeout => 3);
  my $line = defined $c ? readline $c : undef;
  print "$name\n" if defined $line;
}
serve(5432, 0);
my $pid = fork;
if (!$pid) { become(); reach('service', 0, 5432); reach('service from the served port', $served, 5432); exit }
waitpid $pid, 0;
serve($served, 1);
reach('what the jail serves', 0, $served);
kill 'KILL', @children;
`

/** The system, but in a network namespace of its own. */
async function makeHost(t: Test): Promise<System> {
  const found = findTools(['unshare', 'nsenter', 'perl', 'ip'])
  const script = '$| = 1; print "held\\n"; 1 while sysread STDIN, my $byte, 1'
  const holder = spawn(found.get('unshare'), ['--net', '--', found.get('perl'), '-e', script])
  t.teardown(() => holder.kill('SIGKILL'))
  await once(holder.stdout, 'data')
  const enter = [found.get('nsenter'), `--net=/proc/${String(holder.pid)}/ns/net`, '--'] as const
  const system = realSystem()
  const host: System = {
    ...system,
    run: (argv, options) => system.run([...enter, ...argv], options),
    detach: (argv, fifo) => system.detach([...enter, ...argv], fifo),
  }
  await host.run([found.get('ip'), 'link', 'set', 'lo', 'up'])
  return host
}

const loaders: Readonly<Record<string, (host: System, t: Test) => Promise<void>>> = {
  nftables: async (host) => {
    const tables = [staticTable(range), uidBase(range), uidJail(plan, [])]
    const input = tables.flatMap(printTable).join('\n')
    const { code, stderr } = await host.run(['/usr/sbin/nft', '-f', '-'], { input: `${input}\n` })
    if (code !== 0) throw new Error(stderr)
  },
  'iptables-nft': (host, t) => loadIptables(host, t, 'iptables-nft'),
  'iptables-legacy': (host, t) => loadIptables(host, t, 'iptables-legacy'),
}

async function loadIptables(
  host: System,
  t: Test,
  variant: 'iptables-nft' | 'iptables-legacy',
): Promise<void> {
  const found = findTools(['ip', 'unshare', 'nsenter', 'perl'])
  const tools = findIptables(variant, {
    ip: found.get('ip'),
    unshare: found.get('unshare'),
    nsenter: found.get('nsenter'),
    perl: found.get('perl'),
  })
  const stateDir = mkdtempSync('/tmp/agentjail-test-')
  const backend = iptablesBackend({ system: host, tools, range, stateDir })
  await backend.ensureStaticDeny(range)
  const hold = await backend.open(plan)
  t.teardown(async () => {
    await hold.close()
    rmSync(stateDir, { recursive: true })
  })
  await hold.connectGate([])
}

for (const [name, load] of Object.entries(loaders)) {
  t.test(name, async (t) => {
    const host = await makeHost(t)
    await load(host, t)
    const argv = ['/usr/bin/perl', '-e', attempts, String(plan.uid), String(served)] as const
    const { stdout, stderr } = await host.run(argv, { timeout: 60_000 })
    t.equal(stdout, 'what the jail serves\n', stderr)
  })
}
