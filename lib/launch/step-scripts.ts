/**
 * The steps of the launch, in perl (perl-base is part of every Debian; about 2 ms for each program). They load no
 * module and see no variable of the command.
 *
 *   outer  root, host       waits for its plan, joins cgroups and the network, stages mounts, then waits for its child,
 *                           which becomes bwrap
 *   init   root, PID 1      loads seccomp, forks the command's child, reaps, reports, ends with the warden
 *   drop   init's child     becomes the service user, and looks that nothing of root's is left
 *   final  service user     scopes itself (Landlock), sets variables and directory, closes descriptors, becomes the command
 *
 * Invariant: they are constant text; everything that varies reaches them as argv or on a pipe, as data. They hold under
 * `strict`, which a test looks at; loading it here would take a quarter of a millisecond each time.
 * Signals are blocked, not ignored, from the first step on: a Ctrl-C during the launch is neither lost
 * nor fatal to bwrap, and PID 1 reads it from a signalfd.
 */

import { fenceSub } from './fence-script.js'
import { supervisorScript } from './supervisor-script.js'

/** All signals but KILL, STOP and those that a fault raises (ILL TRAP ABRT BUS FPE SEGV SYS). */
export const blockedSignals: bigint = (() => {
  let mask = (1n << 64n) - 1n
  for (const n of [4, 5, 6, 7, 8, 9, 11, 19, 31]) mask &= ~(1n << BigInt(n - 1))
  return mask
})()

/** Common head: a status line to the warden, and the end. */
const head = String.raw`
my ($status, %nr);
sub report { syswrite $status, "$_[0]\n" }
sub refuse { report("error $_[0]"); exit 125 }
sub arguments {
  open $status, '>&=', shift @ARGV or exit 125;
  %nr = split /[=,]/, shift @ARGV;
}
sub call { my ($n, @a) = @_; return syscall($nr{$n} // $n, @a) }
`

/**
 * argv: STATUS_FD CALLS MASK PARENT_PID STEPS_FD. The steps pipe, which may be written much later: NUL-ended fields:
 * JAIL_UID FENCED(1|0), then operations, then `exec`, a count of words and the program's. Fenced: see `fence-script.ts`.
 * Operations: `file FD LENGTH` (so many bytes follow), `cgroup FILE`, `netns FILE`, `staging DIR`, `idmap UID_MAP GID_MAP`,
 * `stage N PATH (rw|ro) (idmap|plain)`, `pin N REL`, `ro N REL`, `hide-file N REL`, `hide-dir N REL`,
 * `make-(directory|placeholder|empty) N REL UID GID`.
 */
export const outerScript: string =
  head +
  fenceSub +
  String.raw`
arguments();
my ($mask, $parent, $steps_fd) = splice @ARGV, 0, 3;
call('rtSigprocmask', 2, pack('Q', $mask), 0, 8) == 0 or refuse("signal mask: $!");
call('prctl', 1, 9, 0, 0, 0) == 0 or refuse("parent-death signal: $!");
getppid() == $parent or refuse('the warden has ended');
call('keyctl', 1, 0, 0, 0, 0);
open my $steps, '<&=', $steps_fd or refuse("steps: $!");
fcntl $steps, 2, 1;
# For the maps of ids, while nobody waits: it has a user namespace by the time that its maps are told.
my ($mapper, $mapped, $let_go);
sub start_mapper {
  pipe $mapped, my $w or refuse("pipe: $!");
  pipe my $r, $let_go or refuse("pipe: $!");
  $mapper = fork // refuse("fork: $!");
  if (!$mapper) {
    close $mapped; close $let_go;
    exit 1 if call('unshare', 0x10000000) != 0;
    syswrite $w, 'x'; sysread $r, my $x, 1; exit 0;
  }
}
start_mapper();
sub field {
  local $/ = "\0";
  my $field = <$steps> // '';
  chop $field eq "\0" or refuse('the launch plan is cut short');
  return $field;
}
my ($user, $fenced) = (field(), field());

for my $fd (0 .. 2) {
  my $to = readlink "/proc/self/fd/$fd";
  next unless defined $to;
  my $h = (\*STDIN, \*STDOUT, \*STDERR)[$fd];
  refuse("descriptor $fd is a directory") if -d $h;
  if (-S $h) {
    my $family = unpack 'S', getsockname($h) // pack 'S', 0;
    refuse("descriptor $fd is a network socket (family $family)") if $family != 1;
    my $peer = getpeername $h;
    my $name = defined $peer && length $peer > 2 ? unpack 'x2 Z*', $peer : '';
    # A service of systemd's: its output goes to the journal, which only takes lines.
    next if $fd > 0 && $name eq '/run/systemd/journal/stdout';
    refuse("descriptor $fd is connected to the service " . join '', grep /[ -~]/, split //, $name)
      if defined $peer && length $peer > 2;
  }
  chown $user, -1, $h if $to =~ /^pipe:/;
}

sub path_fd {
  my ($dir, $path, $resolve) = @_;
  my $fd = call(437, $dir, "$path\0", pack('QQQ', 0x280000, 0, $resolve), 24);
  return $fd;
}
sub clone_tree {
  my ($fd, $flags) = @_;
  my $tree = call(428, $fd, "\0", 0x1000 | 0x80000 | 1 | $flags);
  $tree >= 0 or refuse("open_tree: $!");
  return $tree;
}
sub attach {
  my ($tree, $fd, $what) = @_;
  call(429, $tree, "\0", $fd, "\0", 0x44) == 0 or refuse("mount $what: $!");
}
my ($staging, $userns, %top, %disk);
my ($uid_map, $gid_map);
sub userns {
  return $userns if defined $userns;
  my $ok = sysread $mapped, my $x, 1;
  for my $f (['uid_map', $uid_map], ['gid_map', $gid_map]) {
    last unless $ok;
    $ok = 0 unless open my $h, '>', "/proc/$mapper/$f->[0]";
    $ok = 0 unless $ok && syswrite $h, $f->[1];
  }
  open $userns, '<', "/proc/$mapper/ns/user" or $ok = 0;
  $ok or refuse("idmap: no user namespace: $!");
  return $userns;
}
sub inside {
  my ($n, $rel, $from) = @_;
  my $fd = path_fd($from // $top{$n}, $rel, 0x0c);
  refuse("$rel changed during the launch: $!") if $fd < 0;
  return $fd;
}

my %do = (
  # In memory, with a number of its own for those who come after.
  file => sub {
    my ($fd, $size) = @_;
    $size == 0 or read($steps, my $data, $size) == $size or refuse('the launch plan is cut short');
    my $made = call('memfdCreate', "$fd\0", 0);
    $made >= 0 or refuse("file in memory: $!");
    open my $h, '+<&=', $made or refuse("file in memory: $!");
    for (my $at = 0; $at < $size;) { $at += syswrite($h, $data, $size - $at, $at) // refuse("file in memory: $!") }
    sysseek $h, 0, 0;
    (fcntl($h, 0, $fd + 0) // -1) == $fd or refuse("descriptor $fd is taken");
  },
  cgroup => sub {
    open my $h, '>', $_[0] or refuse("cgroup $_[0]: $!");
    syswrite $h, "$$\n" or refuse("cgroup $_[0]: $!");
  },
  netns => sub {
    # Its holder may just be making it; this step's own, the host's, it never is.
    my $here = readlink '/proc/self/ns/net';
    for (my $tries = 0; (readlink $_[0] // refuse("network namespace: $!")) eq $here; $tries++) {
      refuse('network namespace: it does not come') if $tries > 5000;
      select undef, undef, undef, 0.001;
    }
    open my $h, '<', $_[0] or refuse("network namespace: $!");
    call('setns', fileno $h, 0x40000000) == 0 or refuse("network namespace: $!");
  },
  staging => sub {
    $staging = $_[0];
    call('unshare', 0x20000) == 0 or refuse("mount namespace: $!");
    call('mount', "none\0", "/\0", 0, 0x4000 | 0x80000, 0) == 0 or refuse("mount namespace: $!");
    call('mount', "tmpfs\0", "$staging\0", "tmpfs\0", 6, "mode=0700,size=64k\0") == 0
      or refuse("staging: $!");
    mkdir "$staging/empty", 0 or refuse("staging: $!");
    open my $h, '>', "$staging/none" or refuse("staging: $!");
    chmod 0, "$staging/none", "$staging/empty";
  },
  idmap => sub { ($uid_map, $gid_map) = @_ },
  stage => sub {
    my ($n, $path, $mode, $ids) = @_;
    my $fd = path_fd(-100, $path, 0x04);
    refuse("$path changed during the launch: $!") if $fd < 0;
    $disk{$n} = $fd;
    my $tree = clone_tree($fd, 0x8000);
    if ($ids eq 'idmap') {
      my $attr = pack 'QQQQ', 0x100000, 0, 0, fileno userns();
      call(442, $tree, "\0", 0x9000, $attr, 32) == 0 or refuse("idmap $path: $!");
    }
    my $set = pack 'QQQQ', 6 | ($mode eq 'ro' ? 1 : 0), 0, 0, 0;
    call(442, $tree, "\0", 0x9000, $set, 32) == 0 or refuse("mount $path: $!");
    my $is_dir = -d "/proc/self/fd/$fd";
    if ($is_dir) { mkdir "$staging/$n", 0700 or refuse("staging: $!") }
    else { open my $h, '>', "$staging/$n" or refuse("staging: $!") }
    my $at = path_fd(-100, "$staging/$n", 0x04);
    attach($tree, $at, $path);
    $top{$n} = path_fd(-100, "$staging/$n", 0x04);
  },
  pin => sub {
    my $fd = inside(@_);
    attach(clone_tree($fd, 0x8000), $fd, $_[1]);
  },
  ro => sub {
    my $fd = inside(@_);
    my $tree = clone_tree($fd, 0x8000);
    call(442, $tree, "\0", 0x9000, pack('QQQQ', 1, 0, 0, 0), 32) == 0 or refuse("read-only $_[1]: $!");
    attach($tree, $fd, $_[1]);
  },
  'hide-dir' => sub { cover($_[0], $_[1], 'empty') },
  'hide-file' => sub { cover($_[0], $_[1], 'none') },
  'make-directory' => sub {
    my ($n, $rel, $uid, $gid) = @_;
    return if !mkdir place_of($n, $rel), 0755;
    # Whoever may write beside it may have put something else in its place since: by descriptor, and only what is ours.
    my $made = '/proc/self/fd/' . inside($n, $rel, $disk{$n});
    chown $uid, $gid, $made if -d $made && (stat _)[4] == $>;
  },
  'make-placeholder' => sub { make_file(@_, ".\n") },
  'make-empty' => sub { make_file(@_, '') },
);
sub make_file {
  my ($n, $rel, $uid, $gid, $text) = @_;
  # O_WRONLY | O_CREAT | O_EXCL: an existing one stays, a link is not followed
  sysopen my $h, place_of($n, $rel), 0xc1, 0644 or return;
  syswrite $h, $text;
  chown $uid, $gid, $h;
}
# On the file system itself: through an idmapped mount root may have no id to make files with.
sub place_of {
  my ($n, $rel) = @_;
  my ($parent, $leaf) = $rel =~ m{^(.*)/([^/]+)$} ? ($1, $2) : ('.', $rel);
  return '/proc/self/fd/' . inside($n, $parent, $disk{$n}) . "/$leaf";
}
sub cover {
  my ($n, $rel, $what) = @_;
  my $fd = inside($n, $rel);
  my $tree = clone_tree(path_fd(-100, "$staging/$what", 0x04), 0);
  call(442, $tree, "\0", 0x1000, pack('QQQQ', 1, 0, 0, 0), 32) == 0 or refuse("hide $rel: $!");
  attach($tree, $fd, $rel);
}
my %arity = (file => 2, cgroup => 1, netns => 1, staging => 1, idmap => 2, stage => 4, pin => 2, ro => 2,
  'hide-dir' => 2, 'hide-file' => 2, 'make-directory' => 4, 'make-placeholder' => 4, 'make-empty' => 4);
for (;;) {
  my $op = field();
  last if $op eq 'exec';
  my $count = $arity{$op} // refuse("unknown operation $op");
  $do{$op}->(map field(), 1 .. $count);
}
# Counted: the end of the pipe may come later than all that is in it.
my @program = map field(), 1 .. field();
fcntl $status, 2, 0;
# It ends by itself; the kernel may take milliseconds for it, which nobody waits for here: fence() does.
close $let_go;
fence('agentjail-launch', defined $staging) if $fenced;
waitpid $mapper, 0 if !$fenced;
exec { $program[0] } @program or refuse("$program[0]: $!");
`

/**
 * argv: UID GID DROPS(comma: groups, capabilities, no-new-privs; or `-`). By the kernel's own numbers (<linux/prctl.h>,
 * <linux/capability.h>): the bounding set first, while there is the privilege to; then the ids, with which the other
 * sets go; what the kernel says afterwards is what counts.
 */
const drop = String.raw`
my ($uid, $gid, $drops) = splice @ARGV, 0, 3;
$_ += 0 for $uid, $gid;
my %drop = map { $_ => 1 } split /,/, $drops;
if ($drop{capabilities}) {
  for (my $cap = 0; (my $has = call('prctl', 23, $cap, 0, 0, 0)) >= 0; $cap++) {
    !$has or call('prctl', 24, $cap, 0, 0, 0) == 0 or refuse("bounding set: $!");
  }
  call('prctl', 47, 4, 0, 0, 0) == 0 or refuse("ambient capabilities: $!");
}
if ($drop{groups}) { call('setgroups', 0, 0) == 0 or refuse("groups: $!") }
call('setresgid', $gid, $gid, $gid) == 0 or refuse("gid $gid: $!");
call('setresuid', $uid, $uid, $uid) == 0 or refuse("uid $uid: $!");
if ($drop{capabilities}) {
  call('capset', pack('LL', 0x20080522, 0), "\0" x 24) == 0 or refuse("capabilities: $!");
}
if ($drop{'no-new-privs'}) { call('prctl', 38, 1, 0, 0, 0) == 0 or refuse("no_new_privs: $!") }
{
  open my $h, '<', '/proc/self/status' or refuse("status: $!");
  my $is = do { local $/; <$h> };
  close $h;
  my @held = ("Uid:\t$uid\t$uid\t$uid\t$uid\n", "Gid:\t$gid\t$gid\t$gid\t$gid\n");
  push @held, map "Cap$_:\t0000000000000000\n", qw(Inh Prm Eff Bnd Amb) if $drop{capabilities};
  push @held, "NoNewPrivs:\t1\n" if $drop{'no-new-privs'};
  index($is, $_) >= 0 or refuse("not dropped: $_") for @held;
  $is =~ /^Groups:\s*$/m or refuse('groups are left') if $drop{groups};
}
`

/**
 * argv: SPEC_FD CLOSE(1|0) SCOPES(mask of LANDLOCK_SCOPE_*; 0: none). The spec pipe: NUL-ended fields: cwd, count of variables,
 * `NAME=value` each, then the command. Writes `E text` for a failure of its own, `R` before the exec,
 * and errno after a failed one, to the exec pipe, which closes on exec.
 */
const final = String.raw`
my ($spec_fd, $close, $scopes) = @ARGV;
my $word_fd = fileno $word;
fcntl $word, 2, 1;
*refuse = sub { syswrite $word, "E$_[0]"; exit 125 };
open my $spec, '<&=', $spec_fd or refuse("spec pipe: $!");
my @field = split /\0/, do { local $/; <$spec> }, -1;
close $spec;
pop @field eq '' && @field > 2 or refuse('the launch spec is cut short');
my ($cwd, $count) = splice @field, 0, 2;
@field > $count or refuse('the launch spec is cut short');
%ENV = ();
for (splice @field, 0, $count) { my ($k, $v) = split /=/, $_, 2; $ENV{$k} = $v }
chdir $cwd or refuse("working directory $cwd: $!");
if ($close) {
  opendir my $d, '/proc/self/fd' or refuse("descriptors: $!");
  my @fd = grep { /^\d+$/ && $_ > 2 && $_ != $word_fd } readdir $d;
  closedir $d;
  call('close', $_ + 0) for @fd;
}
if ($scopes) {
  # struct landlock_ruleset_attr of ABI 6. An older kernel knows no scopes, and no call or no such size.
  my $rules = syscall 444, pack('QQQ', 0, 0, $scopes), 24, 0;
  $rules < 0 or syscall(446, $rules, 0) == 0 or refuse("landlock: $!");
}
for (keys %SIG) { $SIG{$_} = 'DEFAULT' if /^[A-Z]/ && !/^(KILL|STOP)$/ }
my $none = pack 'Q', 0;
syscall($nr{rtSigprocmask}, 2, $none, 0, 8) == 0 or refuse("signal mask: $!");
syswrite $word, 'R';
exec { $field[0] } @field;
my $errno = $! + 0;
my $text = "$!";
my $name = $field[0];
my $code = 126;
if (-d $name && $name =~ m{/}) { $text = 'Is a directory' }
elsif ($errno == 2 && $name !~ m{/}) { ($text, $code) = ('command not found', 127) }
elsif ($errno == 2 && -e $name) { $text = 'bad interpreter: No such file or directory' }
elsif ($errno == 2 || $errno == 20) { $code = 127 }
syswrite STDERR, "agentjail: $name: $text\n";
syswrite $word, $errno;
exit $code;
`

/**
 * argv: STATUS_FD CALLS MASK CONTROL_FD BARE(1|0: no PID namespace, and no right to make one) FILTER_FD(-1: none) LIMITS(`7=1024,4=0` or `-`) SCRATCH(`/tmp,/dev/shm` or `-`:
 * file systems with a limit), then what `drop` and `final`
 * take, which the child does.
 * Status lines: `started PID`, `execfail ERRNO`, `stopped N`, `continued`, `sig N`, `full PATH|files`, then `exit N` or `signaled N`.
 * The control pipe carries signal numbers for the command; its end means that the warden has ended.
 */
export const initScript: string =
  head +
  String.raw`
arguments();
my ($mask, $control_fd, $bare, $filter_fd, $limits, $scratch) = splice @ARGV, 0, 6;
my ($user, $group) = @ARGV;
$0 = 'agentjail-init';
fcntl $status, 2, 1;
$SIG{PIPE} = 'IGNORE';
call('rtSigprocmask', 2, pack('Q', $mask), 0, 8) == 0 or refuse("signal mask: $!");
open my $control, '<&=', $control_fd or refuse("control pipe: $!");
fcntl $control, 2, 1;
if ($bare) {
  # It outlives the warden by the moment that it takes to end the jail; the filter needs it without CAP_SYS_ADMIN.
  call('prctl', 1, 0, 0, 0, 0) == 0 or refuse("parent-death signal: $!");
  call('prctl', 38, 1, 0, 0, 0) == 0 or refuse("no_new_privs: $!");
}
if ($filter_fd >= 0) {
  open my $h, '<&=', $filter_fd or refuse("seccomp: $!");
  binmode $h;
  my $filter = do { local $/; <$h> };
  close $h;
  length $filter && length($filter) % 8 == 0 or refuse('seccomp: the filter is cut short');
  call('prctl', 22, 2, pack('S x6 P', length($filter) / 8, $filter), 0, 0) == 0
    or refuse("seccomp: $!");
}
pipe my $ready, my $word or refuse("pipe: $!");
my $pid = fork // refuse("fork: $!");
if (!$pid) {
  for my $pair ($limits eq '-' ? () : split /,/, $limits) {
    my ($resource, $value) = split /=/, $pair;
    # A hard limit already lower stays: raising it would need a privilege that containers lack.
    my $old = pack 'QQ', 0, 0;
    syscall $nr{prlimit64}, 0, 0 + $resource, 0, $old;
    my (undef, $hard) = unpack 'QQ', $old;
    $value = $hard if $hard < $value;
    call('prlimit64', 0, 0 + $resource, pack('QQ', $value, $value), 0) == 0
      or refuse("limit $resource: $!");
  }
  $SIG{PIPE} = 'DEFAULT';
` +
  drop +
  String.raw`
if ($bare) { call('prctl', 1, 9, 0, 0, 0) == 0 or refuse("parent-death signal: $!") }
` +
  final +
  String.raw`
}
close $word;
# Parsed only now: the command's child does not wait for it.
my $supervisor = <<'SUPERVISOR';
` +
  supervisorScript +
  String.raw`SUPERVISOR
eval $supervisor;
refuse("PID 1: $@");
`
