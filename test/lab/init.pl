# PID 1 of a lab: the network namespace it runs in is "the internet", its child's is "the host".
# Guards: when the test process goes (its end of our standard input closes), everything here ends,
# and all files of the lab go with the tmpfs mounted below: nothing is left on the machine.
# Usage: perl init.pl NAME-OF-CONTROL-GROUPS HOST.PL [directory to show read-only]...
use strict;
use warnings;

sub run { system(@_) == 0 or die "@_ failed: $?\n" }
sub set { my ($path, $value) = @_; open(my $f, '>', $path) or return; print $f $value; close $f }

my ($group, $host, @visible) = @ARGV;
my $net = '/proc/sys/net';
# Servers bind any address; the only traffic on the wire is what programs send.
set("$net/ipv4/ip_nonlocal_bind", 1);
set("$net/ipv6/ip_nonlocal_bind", 1);
set("$net/ipv4/ping_group_range", '0 2147483647');
set("$net/ipv4/icmp_ratelimit", 0);
set("$net/ipv6/icmp/ratelimit", 0);
for my $if ('all', 'default') {
  set("$net/ipv4/conf/$if/rp_filter", 0);
  set("$net/ipv6/conf/$if/accept_ra", 0);
  set("$net/ipv6/conf/$if/router_solicitations", 0);
  set("$net/ipv6/conf/$if/accept_dad", 0);
  set("$net/ipv6/conf/$if/mldv2_unsolicited_report_interval", 1);
}
set("$net/ipv6/mld_qrv", 1);
# Covered after the scripts were read: the repository may lie below /tmp.
open(my $script, '<', $host) or die "$host: $!\n";
my $text = do { local $/; <$script> };
run('mount', '-t', 'tmpfs', '-o', 'mode=755', 'lab', '/run');
mkdir "/run/lab" or die;
mkdir "/run/lab/$_" for qw(up work root keep);

# Control groups of its own: other labs on the machine have jails of the same names.
sub join_groups {
  my ($name) = @_;
  for my $at (grep { -e "$_/cgroup.procs" } glob('/sys/fs/cgroup'), glob('/sys/fs/cgroup/*')) {
    my $group = "$at/$name";
    mkdir $group or die "$group: $!\n";
    # A group of cpusets takes no process before it has processors and memory.
    for my $file ('cpuset.cpus', 'cpuset.mems') {
      next unless -e "$group/$file" && open(my $from, '<', "$at/$file");
      set("$group/$file", scalar <$from>);
    }
    open(my $procs, '>', "$group/cgroup.procs") or die "$group: $!\n";
    print $procs $$;
    close $procs or die "$group: $!\n";
  }
}

my $pid = fork() // die "fork: $!\n";
if ($pid == 0) {
  open(STDIN, '<', '/dev/null');
  join_groups($group);
  exec('unshare', qw(--net --mount --pid --uts --ipc --cgroup --fork --kill-child),
    'perl', '-e', $text, @visible) or die "unshare: $!\n";
}
$SIG{CHLD} = 'IGNORE';
1 while sysread(STDIN, my $ignored, 4096);
