# A root directory that looks like a modelled Mac to agentjail: an overlay on the machine's, with the model's programs in
# the places of macOS. Whatever is written here stays here.
# Usage: perl root.pl DIRECTORY SOCKET REPOSITORY PROGRAM...
use strict;
use warnings;
use IO::Socket::UNIX;

my ($dir, $socket, $repository, @programs) = @ARGV;
sub run { system(@_) == 0 or die "@_ failed: $?\n" }
sub put { my ($path, $mode, $text) = @_; open(my $f, '>', $path) or die "$path: $!\n"; print $f $text; close $f; chmod $mode, $path }

run('mount', '--make-rprivate', '/');
run('mount', '-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', $dir);
mkdir "$dir/$_" for qw(up work root);
my $root = "$dir/root";
run('mount', '-t', 'overlay', 'overlay', '-o', "lowerdir=/,upperdir=$dir/up,workdir=$dir/work", $root);
run('mount', '--rbind', '/dev', "$root/dev");
run('mount', '-t', 'proc', 'proc', "$root/proc");
run('mount', '-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', "$root/$_") for qw(run var/log srv);
mkdir "$root/$_" for qw(Library Library/LaunchDaemons Library/Keychains Users Users/Shared private private/tmp srv/mac srv/repository);
put("$root/Library/Keychains/System.keychain", 0644, "kych\n");
# Of an agentjail that is set up on the machine itself.
run('rm', '-rf', "$root/etc/agentjail");
put("$root/etc/hosts", 0644, "127.0.0.1 localhost\n::1 localhost\n");
run('mount', '--bind', $repository, "$root/srv/repository");
run('mount', '--bind', $socket, "$root/srv/mac");
my $ask = do { local $/; open(my $f, '<', "$repository/test/macos/model/ask.pl") or die; <$f> };
for my $program (@programs) {
  unlink "$root$program";
  put("$root$program", 0755, "#!/usr/bin/perl\nmy \$program = '$program';\n$ask");
}
put("$root/usr/bin/sandbox-exec", 0755, <<'END');
#!/usr/bin/perl
shift; my $profile = shift;
if (-e '/srv/mac/traffic') { $ENV{MODEL_PROFILE} = $profile; $ENV{NODE_OPTIONS} = '--import /srv/repository/dist/test/macos/model/hook.js' }
exec { $ARGV[0] } @ARGV;
END
put("$root/etc/services", 0644, "ssh 22/tcp\nsmtps 465/tcp\nhttps 443/tcp\nhttp 80/tcp www\ndomain 53/udp\ndomain 53/tcp\npostgresql 5432/tcp\n");
put("$root/srv/darwin.cjs", 0644, "Object.defineProperty(process, 'platform', { value: 'darwin' })\n");
# The system resolver's socket: whoever connects is not answered.
my $resolver = IO::Socket::UNIX->new(Local => "$root/run/mDNSResponder", Listen => 64) or die "resolver: $!\n";
chmod 0666, "$root/run/mDNSResponder";
run('ip', 'link', 'set', 'lo', 'up');
mkdir "$root/mnt";
chdir $root or die "chdir: $!\n";
run('pivot_root', '.', 'mnt');
chdir '/' or die "chdir: $!\n";
run('umount', '--lazy', '/mnt');
syswrite(STDOUT, "ready\n");
$SIG{CHLD} = 'IGNORE';
sleep 3600 while 1;
