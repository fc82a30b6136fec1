/**
 * For macOS, where nothing is ended with its parent: commands that may outlive the agentjail that started them. Each runs only
 * while a file, its licence, is in place, and holds it meanwhile.
 * Invariant: when `revoke` has resolved, no command under that licence runs, and none will start.
 */
import { JailError } from '../errors.js'
import type { Argv, System } from './types.js'

const perl = '/usr/bin/perl'
/** Seconds that a command may still take when its licence is revoked. */
const patience = 60

/**
 * `$^F`: the command holds the file too, should this one be ended. Who comes late finds the file gone or another in its
 * place, and does nothing.
 */
const holdScript = `use Fcntl ':flock';
$^F = 255;
my ($file, @command) = @ARGV;
open my $licence, '<', $file or die "$file: $!\\n";
flock $licence, LOCK_SH or die "$file: $!\\n";
my ($held, $there) = (join(' ', (stat $licence)[0, 1]), join(' ', (lstat $file)[0, 1]));
die "$file: revoked\\n" if $held ne $there;
my $pid = fork // die "fork: $!\\n";
if ($pid == 0) { exec { $command[0] } @command; exit 127 }
waitpid $pid, 0;
exit($? & 127 ? 1 : $? >> 8)`

const revokeScript = `use Fcntl ':flock';
my ($file, $seconds) = @ARGV;
open my $licence, '<', $file or exit($!{ENOENT} ? 0 : 1);
$SIG{ALRM} = sub { print STDERR "still held\\n"; exit 1 };
alarm $seconds;
flock $licence, LOCK_EX or die "$file: $!\\n";
rename $file, "$file.revoked" or die "$file: $!\\n"`

/** `argv`, to be run only under this licence. */
export function underLicence(file: string, argv: Argv): Argv {
  return [perl, '-e', holdScript, '--', file, ...argv]
}

/**
 * Waits for the commands that hold it, then moves it away. Gives where it is then; a licence that was revoked before lies
 * there still.
 * @throws JailError STATE where one does not end.
 */
export async function revoke(system: System, file: string): Promise<string> {
  const argv: Argv = [perl, '-e', revokeScript, '--', file, String(patience)]
  const { code, stderr } = await system.run(argv, { timeout: (patience + 10) * 1000 })
  if (code === 0) return `${file}.revoked`
  throw new JailError(
    'STATE',
    `a command that an ended agentjail started still runs: ${stderr.trim().split('\n', 1)[0] ?? ''}`,
    { hint: 'see which: ps -Ao pid,ppid,args; when it has ended, run: agentjail gc' },
  )
}
