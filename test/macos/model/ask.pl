# One program of the modelled Mac: asks the model, which answers as the program would.
use strict; use warnings; use IO::Socket::UNIX;
sub ask {
  my ($input, @argv) = @_;
  my $socket = IO::Socket::UNIX->new(Peer => '/srv/mac/socket') or die "no model: $!\n";
  print {$socket} join("\0", @argv), "\0\0", $input;
  shutdown $socket, 1;
  my $said = do { local $/; <$socket> } // '';
  my ($code, $length, $rest) = $said =~ /^(\d+) (\d+)\n(.*)$/s or die "the model went away\n";
  return ($code, substr($rest, 0, $length), substr($rest, $length));
}
if ($program eq '/usr/sbin/tcpdump') {
  # Lines as they come, until it is ended.
  my $socket = IO::Socket::UNIX->new(Peer => '/srv/mac/socket') or die "no model: $!\n";
  print {$socket} join("\0", $program, @ARGV), "\0\0"; $socket->flush; shutdown $socket, 1;
  my ($code) = (<$socket> // '') =~ /^(\d+)/ or die "the model went away\n";
  $| = 1;
  while (my $line = <$socket>) { print STDERR $line; last if $line =~ /^listening/ }
  exit $code if $code != 0;
  print while <$socket>;
  exit 0;
}
my $input = "@ARGV" =~ /-f -(?: |$)/ ? do { local $/; <STDIN> } // '' : '';
if ($program eq '/bin/launchctl' && ($ARGV[0] // '') eq 'asuser') {
  # launchctl asuser UID sudo -n [--preserve-env=A,B] -u NAME -H -- sandbox-exec -p PROFILE COMMAND: runs for real.
  my ($code, $out, $err) = ask('', $program, @ARGV);
  if ($code != 0) { print STDERR $err; exit $code }
  my ($uid, $name, $home) = split /\n/, $out;
  my ($at) = grep { $ARGV[$_] eq '--' } 0 .. $#ARGV;
  my ($kept) = map { /^--preserve-env=(.*)$/ ? $1 : () } @ARGV;
  my %kept = map { $_ => $ENV{$_} // '' } split /,/, $kept // '';
  %ENV = (%kept, HOME => $home, USER => $name, LOGNAME => $name, SUDO_USER => 'root');
  my $boxed = $ARGV[$at + 1] eq '/usr/bin/sandbox-exec';
  if (-e '/srv/mac/traffic') {
    $ENV{NODE_OPTIONS} = '--import /srv/repository/dist/test/macos/model/hook.js';
    $ENV{MODEL_PROFILE} = $ARGV[$at + 3] if $boxed;
  }
  # Every account is in staff, everyone and localaccounts.
  exec '/usr/bin/setpriv', "--reuid=$uid", "--regid=$uid", '--groups=20,12,61', '--', @ARGV[$at + ($boxed ? 4 : 1) .. $#ARGV];
}
my ($code, $out, $err) = ask($input, $program, @ARGV);
print STDOUT $out; print STDERR $err;
exit $code;
