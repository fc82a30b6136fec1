/**
 * A fence around bubblewrap, in perl: PID 1 of a namespace that dies with the process outside it, and with that PID 1
 * all that it started. bubblewrap alone does not promise it: when it dies between its fork and its word to the child,
 * the child waits for that word for ever, with the namespaces and pipes that it has.
 */
import { stepCalls, type Machine } from '../system/syscall-numbers.js'

/**
 * `fence(NAME, OWN_MOUNTS)` returns in the new PID 1; outside, a process of that name waits, and ends as PID 1 did.
 * With mounts of its own, /proc shows the new namespace: bubblewrap looks its child up there.
 * Uses `call(NAME, ...)` and `refuse(TEXT)` of the script around it.
 */
export const fenceSub: string = String.raw`
sub fence {
  my ($name, $own_mounts) = @_;
  call('unshare', 0x20000000) == 0 or refuse("PID namespace: $!");
  $^F = 1000000;
  pipe my $alive, my $held or refuse("pipe: $!");
  # Before the fork: what is inside puts a /proc of its own over this one.
  opendir my $fds, '/proc/self/fd' or refuse("/proc: $!");
  my $pid = fork // refuse("fork: $!");
  if ($pid) {
    # Nothing stays open here: the ends of pipes tell that what is inside is gone.
    my @open = grep { /^\d+$/ && $_ > 2 && $_ != fileno $held } readdir $fds;
    closedir $fds;
    # Past perl, for which a handle keeps its descriptor open.
    call('close', $_ + 0) for @open;
    $0 = $name;
    # Before its own child, one that was started before may have to be let go.
    while ((my $gone = waitpid -1, 0) != $pid) { last if $gone < 0 }
    exit $? >> 8;
  }
  close $held;
  closedir $fds;
  call('prctl', 1, 9, 0, 0, 0) == 0 or refuse("parent-death signal: $!");
  # The process outside may have died before it was asked for.
  my $gone = '';
  vec($gone, fileno $alive, 1) = 1;
  exit 125 if select $gone, undef, undef, 0;
  close $alive;
  !$own_mounts || call('mount', "proc\0", "/proc\0", "proc\0", 14, 0) == 0 or refuse("/proc: $!");
}
`

/** argv: CALLS PARENT_PID NAME PROGRAM ARGS...; becomes the program, inside the fence, and dies with the parent. */
const fenceScript: string =
  String.raw`
use strict;
my %nr = split /[=,]/, shift @ARGV;
my ($parent, $name) = splice @ARGV, 0, 2;
sub call { my ($n, @a) = @_; return syscall($nr{$n} // $n, @a) }
sub refuse { print STDERR "$_[0]\n"; exit 125 }
call('prctl', 1, 9, 0, 0, 0) == 0 or refuse("parent-death signal: $!");
getppid() == $parent or refuse('the warden has ended');
call('unshare', 0x20000) == 0 or refuse("mount namespace: $!");
call('mount', "none\0", "/\0", 0, 0x4000 | 0x80000, 0) == 0 or refuse("mount namespace: $!");
` +
  fenceSub +
  String.raw`
fence($name, 1);
exec { $ARGV[0] } @ARGV or refuse("$ARGV[0]: $!");
`

/** What goes before bubblewrap's own argv. */
export function fenceArgv(
  perl: string,
  machine: Machine,
  parentPid: number,
  name: string,
): string[] {
  return [perl, '-e', fenceScript, '--', callsText(machine), String(parentPid), name]
}

/** The calls by number, as the scripts read them. */
export function callsText(machine: Machine): string {
  return Object.entries(stepCalls[machine])
    .map(([name, number]) => `${name}=${String(number)}`)
    .join(',')
}
