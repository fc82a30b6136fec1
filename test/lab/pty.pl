# Runs a command on a new pseudo-terminal whose other side is our standard input and output.
# "ROWS COLUMNS\n" on descriptor 3 resizes it. Exits as the command did, 128+n after signal n.
# Usage: perl pty.pl ROWS COLUMNS COMMAND [ARGUMENT]...
use strict;
use warnings;
use POSIX qw(setsid WIFSIGNALED WTERMSIG WEXITSTATUS :sys_wait_h);

# Linux: include/uapi/asm-generic/ioctls.h
my ($TIOCGPTN, $TIOCSPTLCK, $TIOCSWINSZ, $TIOCSCTTY) = (0x80045430, 0x40045431, 0x5414, 0x540E);

my ($rows, $columns, @command) = @ARGV;
open(my $master, '+<', '/dev/ptmx') or die "ptmx: $!\n";
my $unlock = pack('i', 0);
ioctl($master, $TIOCSPTLCK, $unlock) or die "unlock: $!\n";
my $number = pack('I', 0);
ioctl($master, $TIOCGPTN, $number) or die "number: $!\n";
my $path = '/dev/pts/' . unpack('I', $number);
sub resize { my $size = pack('S4', @_, 0, 0); ioctl($master, $TIOCSWINSZ, $size) }
resize($rows, $columns);

open(my $control, '<&=', 3) or die "control: $!\n";
my $pid = fork() // die "fork: $!\n";
if ($pid == 0) {
  close $control;
  close $master;
  setsid();
  open(my $slave, '+<', $path) or die "$path: $!\n";
  ioctl($slave, $TIOCSCTTY, 0) or die "controlling terminal: $!\n";
  open(STDIN, '<&', $slave);
  open(STDOUT, '>&', $slave);
  open(STDERR, '>&', $slave);
  close $slave;
  exec { $command[0] } @command or POSIX::_exit(127);
}
my ($in, $ctl, $out) = (1, 1, fileno($master));
while (1) {
  my $r = '';
  vec($r, 0, 1) = 1 if $in;
  vec($r, 3, 1) = 1 if $ctl;
  vec($r, $out, 1) = 1;
  next if select($r, undef, undef, 1) <= 0 && waitpid($pid, WNOHANG) == 0;
  if (vec($r, $out, 1)) {
    my $n = sysread($master, my $data, 65536);
    last unless $n;
    for (my $o = 0; $o < $n;) { $o += syswrite(STDOUT, $data, $n - $o, $o) // last }
  } elsif ($in && vec($r, 0, 1)) {
    if (sysread(STDIN, my $data, 65536)) { syswrite($master, $data) } else { $in = 0 }
  } elsif ($ctl && vec($r, 3, 1)) {
    if (sysread($control, my $line, 64)) { resize($1, $2) if $line =~ /(\d+) (\d+)/ } else { $ctl = 0 }
  } else {
    exit(WIFSIGNALED($?) ? 128 + WTERMSIG($?) : WEXITSTATUS($?));
  }
}
waitpid($pid, 0);
exit(WIFSIGNALED($?) ? 128 + WTERMSIG($?) : WEXITSTATUS($?));
