/**
 * Datagrams that come in, in `uid` isolation: answers of where a grant leads are heard, and nothing else, from outside,
 * from this host, or from an address that was withdrawn while the kernel still knew the flow.
 * Judge: a receiving socket in the jail; that the datagrams were sent is seen by the capture and by a socket beside it.
 */
import t, { type Test } from 'tap'
import { evil, services } from '../lab/addresses.js'
import { createLab, type Lab } from '../lab/lab.js'
import { spawnInternet } from '../lab/namespaces.js'

const path = '/etc/agentjail/policies/inward.yaml'
const policy = (ports: string) => `version: 1
name: inward
network:
  allow:
    - { host: plain.example, proto: udp, ports: [${ports}] }
  cidrs:
    - { cidr: ${services.openai.v4}/32, proto: udp, ports: [4000]}
`
/** Answers on port 4000 at every address, whoever asks; each datagram asked for is sent from that address and port. */
const server = `
use strict; use Socket; my ($v4, $cidr, $evil) = @ARGV;
my %s; for my $a ($v4, $cidr, $evil) { for my $p (4000, 4001) { socket(my $h, 2, 2, 0); setsockopt($h, 1, 2, 1);
  bind($h, pack_sockaddr_in($p, inet_aton($a))) or die "bind $a $p: $!"; $s{"$a $p"} = $h } }
$| = 1; print "up\\n";
while (1) { my $in = ''; vec($in, fileno $_, 1) = 1 for values %s; select($in, undef, undef, undef);
  for my $k (keys %s) { next unless vec $in, fileno $s{$k}, 1; my $from = recv($s{$k}, my $text, 99, 0); 
    # The words say from where to answer: "ADDRESS PORT TEXT".
    my ($a, $p, $say) = split / /, $text; send($s{"$a $p"}, $say, 0, $from) } }`
/** On one socket: lines of standard input are \`send TO PORT WORDS\`; what is heard is printed. */
const client = (port: number) => `
use strict; use Socket; $| = 1; socket(my $s, 2, 2, 0); bind($s, pack_sockaddr_in(${port}, INADDR_ANY)) or die "bind $!";
print "up\\n";
while (1) { my $in = ''; vec($in, fileno $s, 1) = 1; vec($in, 0, 1) = 1; select($in, undef, undef, undef);
  if (vec $in, fileno $s, 1) { my $from = recv($s, my $text, 99, 0); print "heard $text\\n" if defined $from }
  if (vec $in, 0, 1) { sysread(STDIN, my $line, 999) or exit; for (split /\\n/, $line) { my ($to, $port, $words) = split / /, $_, 3;
    my ($n, $e) = (send($s, $words, 0, pack_sockaddr_in($port, inet_aton($to))), $!); print "sent $words: ", $n ? 'ok' : $e, "\\n" } } }`

const timeout = 120_000
t.setTimeout(timeout)
t.test('uid', { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile(path, policy('4000'))
  lab.writeFile('/srv/work/README', 'a workspace\n')
  const addresses = [services.plain.v4, services.openai.v4, evil.v4]
  const far = spawnInternet(
    lab.sides,
    ['perl', '-e', server, ...addresses],
    ['ignore', 'pipe', 'inherit'],
  )
  t.teardown(() => far.kill('SIGKILL'))
  await new Promise((resolve) => far.stdout?.once('data', resolve))
  const argv = ['run', '-q', '-p', path, '--isolation', 'uid', '--', 'perl', '-e']
  // Resolved by the jail itself: only then is its address pinned.
  const start = `system 'getent ahostsv4 plain.example > /dev/null'; ${client(7001)}`
  const jail = lab.spawnAgentjail([...argv, start], { cwd: '/srv/work', timeout })
  await jail.until(/up/, 30_000)
  const say = async (to: string, from: string, port: number, text: string): Promise<void> => {
    jail.write(`${to} 4000 ${from} ${port} ${text}\n`)
    await jail.until(new RegExp(`sent ${from} ${port} ${text}: ok`))
  }
  const [plain = '', cidr = ''] = addresses

  await say(plain, plain, 4000, 'by-name')
  await jail.until(/heard by-name/)
  await say(cidr, cidr, 4000, 'by-address')
  await jail.until(/heard by-address/)
  // Asked of a granted address, answered from elsewhere.
  await lab.capture.clear()
  await say(plain, evil.v4, 4000, 'other-address')
  await say(plain, plain, 4001, 'other-port')
  await sendFromHost(t, lab, 7001, 'from-the-host')
  await say(plain, plain, 4000, 'still-here')
  await jail.until(/heard still-here/)
  const sent = await lab.capture.packets((p) => p.proto === 'udp' && p.dport === 7001)
  t.equal(sent.length, 3, 'all three answers of the far side were sent to the socket')
  t.notMatch(jail.stdout(), /heard (other|from)/)

  lab.writeFile(path, policy('4005'))
  await lab.capture.clear()
  t.equal((await lab.agentjail(['reload', 'inward', '-p', path])).code, 0)
  const flow = await lab.run(['cat', '/proc/net/nf_conntrack'])
  t.match(flow.stdout, new RegExp(`dst=${plain} sport=7001 dport=4000`), 'the kernel has the flow')
  await answerLater(t, lab, plain, 'late')
  await say(cidr, cidr, 4000, 'after')
  await jail.until(/heard after/)
  t.notMatch(jail.stdout(), /heard late/, 'what was withdrawn is not heard')
  jail.end()
  t.equal((await jail.ended).code, 0)

  // The judge is none if it is deaf: beside the jail the same socket hears all of it.
  const beside = lab.spawn(['perl', '-e', client(7002)], { timeout })
  await beside.until(/up/)
  beside.write(`${plain} 4000 ${evil.v4} 4000 other-address\n`)
  await beside.until(/heard other-address/)
  await sendFromHost(t, lab, 7002, 'from-the-host')
  await beside.until(/heard from-the-host/)
  beside.end()
  await beside.ended
  t.equal((await lab.rules()).includes('agentjail_inward'), false, 'no rule is left')
  t.equal((await lab.run(['sh', '-c', groupsLeft])).stdout, '', 'and no group')
})

const groupsLeft = 'find /sys/fs/cgroup -type d -name "*agentjail*"'

const sendFromHost = async (t: Test, lab: Lab, port: number, text: string): Promise<void> => {
  const script = `use Socket; socket(S, 2, 2, 0); send(S, '${text}', 0, pack_sockaddr_in(${port}, inet_aton('127.0.0.1'))) or die $!`
  t.equal((await lab.run(['perl', '-e', script])).code, 0)
}

/** From the withdrawn address and port, unasked, into the flow that the jail had opened. */
const answerLater = async (t: Test, lab: Lab, from: string, text: string): Promise<void> => {
  const script = `use Socket; socket(S, 2, 2, 0); setsockopt(S, 1, 15, 1); setsockopt(S, 1, 2, 1); bind(S, pack_sockaddr_in(4000, inet_aton('${from}'))) or die $!;
    send(S, '${text}', 0, pack_sockaddr_in(7001, inet_aton('192.0.2.2'))) or die $!`
  const child = spawnInternet(lab.sides, ['perl', '-e', script], ['ignore', 'ignore', 'inherit'])
  const code = await new Promise((resolve) => child.on('exit', resolve))
  t.equal(code, 0)
  const seen = await lab.capture.packets((p) => p.src === from && p.dport === 7001)
  t.equal(seen.length, 1, 'it was sent')
}
