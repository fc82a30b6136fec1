/**
 * The fork server, in perl: a small process forks in a fraction of a millisecond, where Node, with tens of megabytes of
 * its own, takes one to five each time, and perl is up already for what is written in it.
 * Invariant: it ends with the process that started it, and all that it forked with it.
 */

/**
 * argv: CALLS PARENT_PID MASK(blocked signals) CONTROL_FD. Requests on the control socket: a length in four bytes, then
 * fields that end with NUL:
 * `fork NAME MAP(`FROM:TO,...`) OWN(1|0) COUNT NAME=VALUE... (exec|network|perl) WORD...`, the variables counted; with
 * `network` in a network namespace of its own, with `perl` the first word is the program's text. OWN: a session of its own, no standard streams but those of MAP, signals as
 * usual. Else all of that is the server's, which gives it away.
 * `kill NAME SIGNAL`; `dump TABLE CHAIN` of family inet, as the kernel has it.
 * `user UID`, whether a process has it as its real uid. `core`: the parent writes no core dumps from here on.
 * Told: `user 0|1`, `core 0|1`, `begun NAME PID`, `end NAME STATUS`, `dump HEX`: nothing where there is no such thing, or it changed meanwhile.
 */
export const forkServerScript: string = String.raw`
# Before any variable: the text sees none of them.
sub run_text { eval $_[0]; print STDERR $@; exit 125 }
my %nr = split /[=,]/, shift @ARGV;
my ($parent, $mask, $control_fd) = @ARGV;
sub call { my ($n, @a) = @_; return syscall($nr{$n} // $n, @a) }
$0 = 'agentjail-fork-server';
call('rtSigprocmask', 2, pack('Q', $mask), 0, 8) == 0 or exit 125;
call('prctl', 1, 9, 0, 0, 0) == 0 or exit 125;
getppid() == $parent or exit 125;
# RLIMIT_CORE of a process; 0: this one. 1, not 0: the kernel hands a dump to a collector (core_pattern with a pipe)
# whatever the limit, but for this one.
sub forbid_dumps {
  my $pid = shift;
  for (1, 0) { return 1 if call('prlimit64', $pid, 4, pack('QQ', $_, $_), 0) == 0 }
  return 0;
}
# Its children have it from it: some come to know keys.
forbid_dumps(0) or exit 125;
open my $control, '+<&=', $control_fd or exit 125;
fcntl $control, 2, 1;
# SIGCHLD; SFD_NONBLOCK | SFD_CLOEXEC
my $fd = call('signalfd4', -1, pack('Q', 1 << 16), 8, 0x80800);
$fd >= 0 && open my $ends, '<&=', $fd or exit 125;
my $server = $$;
my %name;
sub tell_it { syswrite $control, "$_[0]\n" }
sub begin {
  my ($name, $map, $own, $count, @rest) = @_;
  my @env = splice @rest, 0, $count;
  my @map = map [map $_ + 0, split /:/], split /,/, $map;
  my $pid = fork // return tell_it("end $name 32000");
  if (!$pid) {
    call('prctl', 1, 9, 0, 0, 0) == 0 or exit 125;
    getppid() == $server or exit 125;
    if ($own) {
      call('setsid');
      open STDIN, '<', '/dev/null';
      open STDOUT, '>', '/dev/null';
      call('rtSigprocmask', 2, pack('Q', 0), 0, 8);
    }
    # By perl, which would else take these numbers for in use, and close none that gets them.
    close $control;
    close $ends;
    for (@map) { $_->[0] == $_->[1] or call('dup3', @$_, 0) >= 0 or exit 125 }
    my %kept = map { $_->[1] => 1 } @map;
    opendir my $d, '/proc/self/fd' or exit 125;
    my @open = grep /^\d+$/ && $_ > 2 && !$kept{$_}, readdir $d;
    closedir $d;
    call('close', $_ + 0) for @open;
    %ENV = map { split /=/, $_, 2 } @env;
    my ($kind, @words) = @rest;
    $kind ne 'network' || call('unshare', 0x40000000) == 0 or exit 125;
    if ($kind ne 'perl') { exec { $words[0] } @words or exit 127 }
    @ARGV = @words;
    run_text(shift @ARGV);
  }
  $name{$pid} = $name;
  call('close', $_->[0]) for @map;
  if (!$own) { open STDIN, '<', '/dev/null'; open STDOUT, '>', '/dev/null'; open STDERR, '>', '/dev/null' }
  tell_it("begun $name $pid");
}
# nfnetlink: NFT_MSG_GETTABLE, GETCHAIN, and a dump of GETRULE. Of each answer its type and attributes; the two bytes left
# out before them count the changes of the whole ruleset.
sub dump_chain {
  my ($table, $chain) = @_;
  my $named = sub { my ($kind, $text) = @_; pack 'SS a*', 5 + length $text, $kind, $text . "\0" x (4 - length($text) % 4) };
  my $of = $named->(1, $table);
  my $all = '';
  socket my $s, 16, 3, 12 or return '';
  for ([1, 1, $of], [4, 1, $of . $named->(3, $chain)], [7, 0x301, $of . $named->(2, $chain)]) {
    my ($type, $flags, $body) = @$_;
    send $s, pack('LSSLL CCn', 20 + length $body, 10 << 8 | $type, $flags, 1, 0, 1, 0, 0) . $body, 0, pack('SSLL', 16, 0, 0, 0)
      or return '';
    READ: for (;;) {
      defined recv $s, my $data, 1 << 17, 0 or return '';
      for (my $at = 0; $at + 16 <= length $data;) {
        my ($size, $kind, $how) = unpack 'LSS', substr $data, $at, 8;
        # NLMSG_DONE; an error; NLM_F_DUMP_INTR.
        last READ if $kind == 3;
        return '' if $size < 20 || $kind < 16 || $how & 0x10;
        $all .= pack('S', $kind) . substr $data, $at + 20, $size - 20;
        last READ if !($how & 2);
        $at += ($size + 3) & ~3;
      }
    }
  }
  return unpack 'H*', $all;
}
# getpriority(2) of PRIO_USER: ESRCH. The kernel knows without a look at every process.
sub is_user {
  local $! = 0;
  getpriority 2, $_[0];
  return $! == 3 ? 0 : 1;
}
my $heard = '';
for (;;) {
  my $in = '';
  vec($in, fileno $_, 1) = 1 for $control, $ends;
  next if select($in, undef, undef, undef) <= 0;
  if (vec $in, fileno $ends, 1) {
    1 while sysread $ends, my $block, 2048;
    # WNOHANG
    while ((my $pid = waitpid -1, 1) > 0) { tell_it('end ' . delete($name{$pid}) . " $?") }
  }
  if (vec $in, fileno $control, 1) {
    sysread $control, $heard, 65536, length $heard or exit 0;
    while (length $heard >= 4 && length $heard >= 4 + (my $size = unpack 'N', $heard)) {
      my (undef, $what, @fields) = (substr($heard, 0, 4), split /\0/, substr($heard, 4, $size - 1), -1);
      substr $heard, 0, 4 + $size, '';
      if ($what eq 'fork') { begin(@fields) }
      elsif ($what eq 'dump') { tell_it('dump ' . dump_chain(@fields)) }
      elsif ($what eq 'core') { tell_it('core ' . (forbid_dumps($parent) ? 1 : 0)) }
      elsif ($what eq 'user') { tell_it('user ' . is_user($fields[0])) }
      else { my %pid = reverse %name; kill $fields[1], $pid{$fields[0]} if $pid{$fields[0]} }
    }
  }
}
`
