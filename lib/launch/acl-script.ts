/**
 * Shares a tree by access lists and takes them back, in perl, as root.
 * Invariant: nothing is named by a path that others may change. Each step down is openat2(2) without links, and what is
 * changed is the descriptor whose owner was looked at: a link, another file or another directory that is put in its
 * place meanwhile is never reached.
 *
 * The jail's user gets what the caller has by owner, by an entry of the caller's or by the caller's group, never more.
 */

/**
 * argv: CALLS O_NOFOLLOW (share|back) JAIL_UID JAIL_GID CALLER_UID CALLER_GID IDENT WRITE(1|0) PATH, then what is kept:
 * `ro REL`, `hide REL`, from the tree's root. IDENT: `DEVICE:INODE` of PATH, or `-`.
 * stdout: `ident DEVICE:INODE`; `had DEVICE:INODE ACCESS DEFAULT` for each that has a list already (hex, or `-`), which
 * `back` is given on stdin; `problem TEXT`.
 * A list as the kernel keeps it: <linux/posix_acl_xattr.h>.
 */
export const aclScript = String.raw`
use strict;
no warnings 'recursion';
my %nr = split /[=,]/, shift @ARGV;
my $nofollow = shift @ARGV;
my ($what, $jail, $jail_gid, $caller, $caller_gid, $ident, $write, $path, @kept) = @ARGV;
$_ += 0 for $jail, $jail_gid, $caller, $caller_gid, $nofollow;
my %kept = reverse @kept;
my %had;
$| = 1;
if ($what eq 'back') {
  while (<STDIN>) { $had{$1} = [$2, $3] if /^had (\S+) (\S+) (\S+)$/ }
}
my %told;
sub problem { print "problem $_[0]\n" if !$told{$_[0]}++ }
sub call { my ($n, @a) = @_; return syscall($nr{$n} // $n, @a) }
# O_PATH | O_CLOEXEC; RESOLVE_NO_SYMLINKS, and below a directory RESOLVE_BENEATH
sub at {
  my ($dir, $name, $resolve) = @_;
  return call(437, $dir, "$name\0", pack('QQQ', 0x280000 | $nofollow, 0, $resolve), 24);
}
sub is_directory { ($_[0][2] & 0170000) == 0040000 }
sub is_link { ($_[0][2] & 0170000) == 0120000 }

my ($user_obj, $user, $group_obj, $group, $mask, $other) = (1, 2, 4, 8, 16, 32);
my %attribute = (access => "system.posix_acl_access\0", default => "system.posix_acl_default\0");
my $buffer = "\0" x 65536;
sub get {
  my ($at, $kind) = @_;
  # Not through call, whose copy the kernel would fill.
  my $n = syscall $nr{getxattr}, $at, $attribute{$kind}, $buffer, length $buffer;
  return substr $buffer, 0, $n if $n > 0;
  # ENODATA
  return '' if $! == 61;
  # EOPNOTSUPP
  problem('the file system has no access lists') if $! == 95;
  return undef;
}
sub entries {
  my @flat = unpack 'V(vvV)*', $_[0];
  shift @flat;
  my @list;
  while (my ($tag, $bits, $id) = splice @flat, 0, 3) { push @list, [$tag, $bits, $id] }
  return @list;
}
sub list_of {
  my @sorted = sort { $a->[0] <=> $b->[0] || $a->[2] <=> $b->[2] } @_;
  return pack 'V(vvV)*', 2, map @$_, @sorted;
}
sub by_mode {
  my $mode = $_[0];
  return ([$user_obj, $mode >> 6 & 7, ~0 & 0xffffffff], [$group_obj, $mode >> 3 & 7, ~0 & 0xffffffff],
    [$other, $mode & 7, ~0 & 0xffffffff]);
}
# Without a mask, each entry being what it is worth: a wider mask later gives nobody more.
sub effective {
  my ($m) = map $_->[1], grep $_->[0] == $mask, @_;
  return map {
    my ($tag, $bits, $id) = @$_;
    $tag == $mask ? () : [$tag, $tag & ($user | $group_obj | $group) ? $bits & ($m // 7) : $bits, $id];
  } @_;
}
sub masked {
  my @list = @_;
  return @list unless grep $_->[0] & ($user | $group), @list;
  my $m = 0;
  $m |= $_->[1] for grep $_->[0] & ($user | $group_obj | $group), @list;
  return (@list, [$mask, $m, 0xffffffff]);
}
sub granted {
  my ($list, %bits) = @_;
  my @rest = grep !($_->[0] == $user && exists $bits{$_->[2]}), @$list;
  return list_of(masked(@rest, map [$user, $bits{$_}, $_], keys %bits));
}
sub put {
  my ($at, $kind, $value) = @_;
  return if call('setxattr', $at, $attribute{$kind}, $value, length $value, 0) == 0;
  problem("an access list could not be set: $!");
}

# What the caller may do with it, other than as anybody.
sub rights_of_caller {
  my ($uid, $gid, $list) = @_;
  my %bits = map { ($_->[0] == $user ? "u$_->[2]" : $_->[0]) => $_->[1] } @$list;
  return $bits{$user_obj} if $uid == $caller;
  return $bits{"u$caller"} if exists $bits{"u$caller"};
  return $gid == $caller_gid ? $bits{$group_obj} : 0;
}

# What both steps set, from what was there: the list for itself, and the one that new files inherit.
sub shared {
  my ($st, $raw, $default, $may_write) = @_;
  my @access = $raw eq '' ? by_mode($st->[2]) : effective(entries($raw));
  my $bits = rights_of_caller(@$st[4, 5], \@access) & ($may_write ? 7 : 5);
  my ($anybody) = map $_->[1], grep $_->[0] == $other, @access;
  my $directory = is_directory($st);
  my ($new, $inherited) = ($raw, $default);
  if ($bits & ~$anybody) {
    $new = granted(\@access, $jail => $bits | (7 & $anybody));
    if ($directory) {
      my @base = $default eq '' ? by_mode($st->[2]) : effective(entries($default));
      $inherited = granted(\@base, $jail => $may_write ? 7 : 5, $may_write ? ($caller => 7) : ());
    }
  }
  return ($new, $inherited);
}

sub share {
  my ($fd, $at, $st, $may_write) = @_;
  my $directory = is_directory($st);
  my $raw = get($at, 'access') // return 0;
  my $default = $directory ? get($at, 'default') // return 0 : '';
  print "had $st->[0]:$st->[1] ", ($raw eq '' ? '-' : unpack 'H*', $raw), ' ',
    ($default eq '' ? '-' : unpack 'H*', $default), "\n" if $raw ne '' || $default ne '';
  my ($new, $inherited) = shared($st, $raw, $default, $may_write);
  put($at, 'access', $new) if $new ne $raw;
  put($at, 'default', $inherited) if $inherited ne $default;
  return 1;
}

# Off with the jail's entries; with the caller's too, where only the jail's were beside it.
sub without {
  my ($raw, $inherited) = @_;
  my @list = entries($raw);
  return $raw unless grep $_->[0] == $user && $_->[2] == $jail, @list;
  my @rest = grep !($_->[0] == $user && $_->[2] == $jail), effective(@list);
  my @others = grep $_->[0] & ($user | $group) && !($_->[0] == $user && $_->[2] == $caller), @rest;
  @rest = grep $_->[0] != $user, @rest if $inherited && !@others;
  return list_of(masked(@rest));
}
sub take_back {
  my ($fd, $at, $st, $may_write) = @_;
  if ($st->[4] == $jail) {
    my $gid = $st->[5] == $jail_gid ? $caller_gid : -1;
    # AT_EMPTY_PATH
    call('fchownat', $fd, "\0", $caller, $gid, 0x1000) == 0 or problem("a file could not be handed back: $!");
  }
  return 1 if is_link($st);
  my $had = $had{"$st->[0]:$st->[1]"};
  my ($old, $old_default) = map { !defined $_ || $_ eq '-' ? '' : pack 'H*', $_ } $had ? @$had : ();
  $_ //= '' for $old, $old_default;
  my ($set, $set_default) = $had ? shared($st, $old, $old_default, $may_write) : ('', '');
  my $raw = get($at, 'access') // return 1;
  if ($raw ne '') {
    my $new = $had && $raw eq $set && $old ne '' ? $old : without($raw, !$had || $st->[4] == $jail);
    put($at, 'access', $new) if $new ne $raw;
  }
  return 1 if !is_directory($st);
  my $default = get($at, 'default') // return 1;
  return 1 if $default eq '';
  my $new = $had && $default eq $set_default && $old_default ne '' ? $old_default : without($default, 1);
  return 1 if $new eq $default;
  # One without names that was there before stays; else it was only there for the names.
  my $named = sub { grep $_->[0] & ($user | $group), entries($_[0]) };
  return put($at, 'default', $new) || 1 if $named->($new) || $old_default ne '' && !$named->($old_default);
  call('removexattr', $at, $attribute{default}) == 0 or problem("an access list could not be removed: $!");
  return 1;
}

my $step = $what eq 'share' ? \&share : \&take_back;
# Levels: each keeps a descriptor open.
my $deepest = 400;
sub walk {
  my ($fd, $rel, $may_write, $level) = @_;
  my $at = "/proc/self/fd/$fd\0";
  my @st = stat "/proc/self/fd/$fd" or return;
  my $kind = $kept{$rel eq '' ? '.' : $rel} // '';
  return if $kind eq 'hide';
  $may_write = 0 if $kind eq 'ro';
  return if is_link(\@st) && $what eq 'share';
  $step->($fd, $at, \@st, $may_write) or return;
  return if !is_directory(\@st);
  return problem("what lies deeper than $deepest levels is left as it is") if $level >= $deepest;
  opendir my $d, "/proc/self/fd/$fd" or return problem("a directory could not be read: $!");
  while (defined(my $name = readdir $d)) {
    next if $name eq '.' || $name eq '..';
    my $below = at($fd, $name, 0x0e);
    # ENOENT, ELOOP: gone, or a mount in the way, since it was listed
    if ($below < 0) { problem("a file could not be opened: $!") if $! != 2 && $! != 40; next }
    walk($below, $rel eq '' ? $name : "$rel/$name", $may_write, $level + 1);
    call('close', $below);
  }
}

my $top = at(-100, $path, 0x06);
if ($top < 0) { problem("it is not there any more: $!"); exit 0 }
my @st = stat "/proc/self/fd/$top" or die "stat: $!";
my $is = "$st[0]:$st[1]";
if (is_link(\@st)) { problem('it is a link'); exit 0 }
if ($ident ne '-' && $is ne $ident) { problem('something else lies there now'); exit 0 }
print "ident $is\n";
walk($top, '', $write, 0);
print "done\n";
`
