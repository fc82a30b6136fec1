# PID 1 of a lab's "host": its own network, mounts, processes, name and IPC.
# Guards: the root is an overlay on the machine's, so whatever is written here stays here.
# Usage: perl host.pl [directory to show read-only]...
use strict;
use warnings;

sub run { system(@_) == 0 or die "@_ failed: $?\n" }
sub set { my ($path, $value) = @_; open(my $f, '>', $path) or return; print $f $value; close $f }
sub deep { my $p = ''; for (split m{/}, $_[0]) { $p .= "$_/"; mkdir $p } }

my $root = '/run/lab/root';
my $net = '/proc/sys/net';
for my $if ('all', 'default') {
  set("$net/ipv6/conf/$if/accept_ra", 0);
  set("$net/ipv6/conf/$if/router_solicitations", 0);
  set("$net/ipv6/conf/$if/accept_dad", 0);
  # Group reports leave at once and once: what the kernel says of itself is over before a test begins.
  set("$net/ipv6/conf/$if/mldv2_unsolicited_report_interval", 1);
  set("$net/ipv4/conf/$if/igmpv3_unsolicited_report_interval", 1);
}
set("$net/ipv6/mld_qrv", 1);
set("$net/ipv4/igmp_qrv", 1);
run('mount', '-t', 'overlay', 'overlay', '-o',
  'lowerdir=/,upperdir=/run/lab/up,workdir=/run/lab/work', $root);
run('mount', '--rbind', "/$_", "$root/$_") for qw(dev sys);
# The same hierarchies as the machine's, seen from the groups that this process is in.
my @hierarchies;
open(my $mounts, '<', '/proc/self/mounts') or die "mounts: $!\n";
for (<$mounts>) {
  my (undef, $at, $type, $options) = split ' ';
  next unless $type =~ /^cgroup2?$/ && $at =~ m{^/sys/fs/cgroup(/[^/]+)?$};
  my @options = grep { !/^(rw|ro|relatime|nosuid|nodev|noexec)$/ } split /,/, $options;
  push @hierarchies, [$1 // '', $type, $type eq 'cgroup' ? ('-o', join ',', @options) : ()];
}
run('mount', '-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', "$root/sys/fs/cgroup");
for (@hierarchies) {
  my ($name, $type, @options) = @$_;
  mkdir "$root/sys/fs/cgroup$name";
  run('mount', '-t', $type, @options, 'cgroup', "$root/sys/fs/cgroup$name");
}
run('mount', '-t', 'devpts', '-o', 'newinstance,ptmxmode=0666,mode=620,gid=5', 'devpts',
  "$root/dev/pts");
run('mount', '--bind', "$root/dev/pts/ptmx", "$root/dev/ptmx");
run('mount', '-t', 'tmpfs', '-o', 'mode=1777', 'tmpfs', "$root/$_") for qw(dev/shm tmp);
# Workspaces live in the last two: an overlay cannot be mounted with mapped ids (mount_setattr(2)).
run('mount', '-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', "$root/$_") for qw(run home srv);
run('mount', '-t', 'proc', 'proc', "$root/proc");
mkdir "$root/run/$_" for qw(lock sudo sshd);
# The live tree, not the overlay's view: a lower layer must not change below an overlay.
for my $path (@ARGV) {
  deep("$root$path");
  run('mount', '--bind', '-o', 'ro', $path, "$root$path");
}
run('hostname', 'labhost');
mkdir "$root/mnt";
chdir $root or die "chdir: $!\n";
run('pivot_root', '.', 'mnt');
chdir '/' or die "chdir: $!\n";
run('umount', '--lazy', '/mnt');
syswrite(STDOUT, "ready\n");
open(STDOUT, '>', '/dev/null');
$SIG{CHLD} = 'IGNORE';
sleep 3600 while 1;
