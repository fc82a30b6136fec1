/**
 * PID 1 of a jail once the command's child is forked, in perl: it reaps, reports, passes signals on, looks for what is
 * full, and ends with the warden. A part of the script of `init` (see `step-scripts.ts`), whose variables it sees:
 * `$pid` is the child, which writes what becomes of it on the pipe that `$ready` reads.
 */
export const supervisorScript: string = String.raw`
# Every process of the user, also one that just forks: the kernel signals them all under one lock. By a child that is the
# user, which the jail may kill first: until none is left.
sub sweep {
  for (1 .. 1000) {
    my $child = fork // next;
    if (!$child) {
      exit 1 if !$user;
      call('setresgid', $group + 0, $group + 0, $group + 0);
      call('setresuid', $user + 0, $user + 0, $user + 0) == 0 or exit 1;
      kill 'KILL', -1;
      exit 0;
    }
    waitpid $child, 0;
    opendir my $all, '/proc' or return;
    return if !grep { /^\d+$/ && ((stat "/proc/$_")[4] // -1) == $user && state_of($_) ne 'Z' } readdir $all;
    select undef, undef, undef, 0.005;
  }
}
sub state_of {
  open my $h, '<', "/proc/$_[0]/stat" or return 'Z';
  return <$h> =~ /\) (\S)/ ? $1 : 'Z';
}
my $fd = call('signalfd4', -1, pack('Q', $mask), 8, 0x80800);
$fd >= 0 or refuse("signalfd: $!");
open my $signals, '<&=', $fd or refuse("signalfd: $!");
my ($words, $open, $pending) = ('', 1, '');
sub hear { return if sysread $ready, $words, 64, length $words; $open = 0 }
sub judge {
  if ($words =~ /^R(\d+)/) { report("execfail $1") }
  elsif ($words eq 'R') { report("started $pid") }
  elsif ($words =~ /^E(.*)/s) { refuse($1) }
  else { refuse('the last step ended without a word') }
}
# What the kernel refuses without counting it: looked at once a second, and at the end.
my ($files) = $limits =~ /(?:^|,)7=(\d+)/;
my %full;
sub full { $full{$_[0]} = 1; report("full $_[0]") }
sub look {
  for my $path (grep !$full{$_}, $scratch eq '-' ? () : split /,/, $scratch) {
    my ($name, $s) = ("$path\0", "\0" x 128);
    next if syscall($nr{statfs}, $name, $s) != 0;
    my (undef, undef, $blocks, undef, $free) = unpack 'Q5', $s;
    full($path) if $blocks && !$free;
  }
  return if !$files || $full{files} || !opendir my $all, '/proc';
  for my $p (grep /^\d+$/ && $_ > 1, readdir $all) {
    next if $bare && ((stat "/proc/$p")[4] // -1) != $user;
    opendir my $d, "/proc/$p/fd" or next;
    return full('files') if (grep /^\d/, readdir $d) >= $files;
  }
}
my $looked = time;
sub reap {
  # By number: what perl's waitpid leaves in $? does not tell a stop from an exit.
  my $raw = pack 'l', 0;
  while ((my $p = syscall $nr{wait4}, -1, $raw, 11, 0) > 0) {
    my $s = unpack 'l', $raw;
    next if $p != $pid;
    if ($s == 0xffff) { report('continued'); next }
    if (($s & 0xff) == 0x7f) { report('stopped ' . ($s >> 8 & 0xff)); next }
    my $signal = $s & 0x7f;
    if ($open) {
      hear() while $open;
      judge() unless $signal && $words eq '';
    }
    look();
    sweep() if $bare;
    report($signal ? "signaled $signal" : 'exit ' . ($s >> 8));
    exit 0;
  }
}
while (1) {
  my $in = '';
  vec($in, fileno $signals, 1) = 1;
  vec($in, fileno $control, 1) = 1;
  vec($in, fileno $ready, 1) = 1 if $open;
  my $heard = select $in, undef, undef, 1;
  if (time != $looked) { $looked = time; look() }
  next if $heard <= 0;
  if ($open && vec $in, fileno $ready, 1) {
    hear();
    judge() if !$open && $words ne '';
  }
  if (vec $in, fileno $signals, 1) {
    my $chld = 0;
    if (sysread $signals, my $block, 2048) {
      for (my $i = 0; $i < length $block; $i += 128) {
        my $n = unpack 'L', substr $block, $i, 4;
        $n == 17 ? $chld = 1 : report("sig $n");
      }
    }
    reap() if $chld;
  }
  if (vec $in, fileno $control, 1) {
    if (!sysread $control, $pending, 4096, length $pending) { sweep() if $bare; exit 125 }
    kill $1, $pid while $pending =~ s/^(\d+)\n//;
  }
}
`
